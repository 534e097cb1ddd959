//! A client that has a VM moved, and follows.

use std::process::Command;

use crate::{Process, Report};

/// `me2 hybrid-migrate` or `me2 recover`; killed when dropped, which ends no migration.
pub struct Migration {
    process: Process,
}

/// A migration that has come to an end.
#[derive(Debug)]
pub struct Ended {
    /// The exit status of the client.
    pub code: Option<i32>,
    /// What it printed: one document.
    pub report: Report,
    /// Its progress, and what it said in the end.
    pub stderr: String,
}

impl Migration {
    pub(crate) fn start(me2: &mut Command) -> Self {
        let process = Process::start("the client", me2.args(["--output", "json"]));
        Self { process }
    }

    /// Whether the client has ended.
    pub fn has_ended(&mut self) -> bool {
        !self.process.is_running()
    }

    /// Waits for the end; gives the exit status, whatever it printed.
    pub fn code(mut self) -> Option<i32> {
        self.process.wait().code()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If what it printed is not one document.
    pub fn end(mut self) -> Ended {
        let code = self.process.wait().code();
        let stderr = self.process.stderr();
        let report = Report::parse(&self.process.stdout())
            .unwrap_or_else(|error| panic!("no report: {error}; exit status {code:?}; {stderr}"));
        Ended {
            code,
            report,
            stderr,
        }
    }

    /// Kills the client: SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

impl Ended {
    /// It completed; gives the report, in which everything holds that must hold.
    ///
    /// # Panics
    /// If it did not.
    pub fn completed(self) -> Report {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stderr, self.report);
        self.report.check_complete();
        self.report
    }

    /// It did not complete: with this exit status, this `status`, and a reason; gives the report.
    ///
    /// # Panics
    /// If it ended otherwise.
    pub fn failed(self, code: i32, status: &str) -> Report {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stderr, self.report);
        assert_eq!(self.report.text("status"), status, "{}", self.report);
        let reason = self.report.text("error");
        assert!(!reason.is_empty());
        let last = self.stderr.lines().next_back().unwrap_or_default();
        assert!(
            last.starts_with("me2: ") && last.contains(reason),
            "the reason is not what is said last: {}",
            self.stderr
        );
        self.report
    }
}
