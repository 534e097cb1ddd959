//! Questions that wait for their answers: the push keeps still meanwhile, so that neither the
//! processor nor the link has anything better to do.

use std::{
    sync::{Condvar, Mutex, MutexGuard},
    time::Duration,
};

/// For so long at most: questions that never end must not keep the rest from coming.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// How many questions are being answered.
#[derive(Debug, Default)]
pub struct Asked {
    open: Mutex<usize>,
    answered: Condvar,
}

/// A question, open as long as this lives.
pub struct Question<'a>(&'a Asked);

impl Asked {
    /// A question has come.
    pub fn question(&self) -> Question<'_> {
        *self.lock() += 1;
        Question(self)
    }

    /// Waits, not for long, until there are no questions. Blocks the thread.
    pub fn wait_for_answers(&self) {
        let open = self.lock();
        let _open = self
            .answered
            .wait_timeout_while(open, PAUSE_MAX, |open| *open > 0)
            .expect("no panics under this lock");
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.open.lock().expect("no panics under this lock")
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.answered.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_push_waits_while_a_question_is_open_and_not_for_ever() {
        let asked = Asked::default();
        asked.wait_for_answers();
        let question = asked.question();
        let begun = Instant::now();
        asked.wait_for_answers();
        assert!(begun.elapsed() >= PAUSE_MAX, "nobody answered");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| asked.wait_for_answers());
            drop(question);
            waiting.join().expect("it does not panic");
        });
        assert_eq!(*asked.lock(), 0);
    }
}
