//! The guests of the experiments.

use std::{collections::BTreeMap, env, path::PathBuf};

use anyhow::{Context, bail};

use super::options::{Common, ContentsFrom};
use crate::{
    contents::{self, Contents},
    guest::Guest,
    results::GuestOfManifest,
    units::{MIB, size_argument},
};

/// Of a guest's memory, so that 70% remain whatever the guest needs for itself.
const FILLED_PERCENT: u64 = 76;
const FILLED_PERCENT_MIN: u64 = 70;

/// Pages a second that a guest checks besides. Few: on a host with shadow paging a page that is read
/// after a while can count as written, more often under one VMM than under another.
const SCAN: u64 = 200;

/// Operations a second of all that work: what the built-in guest does if nothing is asked for.
const RATE: u64 = 20_000;

/// What a guest does, for a memory of so many bytes.
#[derive(Clone, Copy)]
pub(super) struct Recipe {
    pub(super) name: &'static str,
    workload: &'static str,
    /// Working set, as a part of the memory: one in so many; 0: none.
    hot_one_in: u64,
    /// Operations a second; 0: left out.
    rate: u64,
    /// Pages a second that it checks besides.
    scan: u64,
    /// Memory, and what of it is filled; `None`: as asked for, to 76%.
    sizes: Option<(u64, u64)>,
    /// Whether zeros and repeated pages are put in. The contents lie there as they are then, and the
    /// guest works beside them: what it fills it stamps, page by page, and no two are the same.
    repeats: bool,
}

/// Guests that are full, each with a workload of its own.
pub(super) fn filled() -> Vec<Recipe> {
    let full = |name, workload, hot_one_in, rate| Recipe {
        name,
        workload,
        hot_one_in,
        rate,
        scan: SCAN,
        sizes: None,
        repeats: false,
    };
    // What is written must be the workload's alone.
    let unscanned = |recipe| Recipe { scan: 0, ..recipe };
    vec![
        unscanned(full("idle", "workload=idle", 0, 0)),
        full("kv", "workload=kv", 16, RATE),
        full("stream", "workload=stream", 4, RATE),
        full("churn", "workload=churn", 4, RATE),
        full("graph", "workload=graph", 4, RATE),
        Recipe {
            repeats: true,
            ..full("repeats", "workload=kv", 16, RATE)
        },
        // Slow enough that pre-copy converges on every link.
        unscanned(full("calm", "workload=rewrite writes=100", 64, 500)),
    ]
}

/// Guests that rewrite 64 bytes of a page, page after page.
pub(super) fn rewriting(quick: bool) -> Vec<Recipe> {
    let part = if quick { 4 } else { 1 };
    let memory = 1024 * MIB / part;
    let recipe = |name, fill: u64, hot: u64, rate: u64| Recipe {
        name,
        workload: "workload=rewrite writes=100",
        hot_one_in: 1024 / hot,
        rate: rate / part,
        scan: SCAN,
        sizes: Some((memory, fill * MIB / part)),
        repeats: false,
    };
    vec![
        recipe("mixed", 256, 32, 20_000),
        recipe("heavy", 512, 128, 60_000),
    ]
}

/// Makes guests, and their contents once for each size.
pub(super) struct Catalog {
    recipes: Vec<Recipe>,
    cpus: u8,
    from: ContentsFrom,
    contents: BTreeMap<(u64, bool), Contents>,
}

impl Catalog {
    pub(super) fn new(common: &Common, recipes: Vec<Recipe>) -> Self {
        Self {
            recipes,
            cpus: common.cpus,
            from: common.contents,
            contents: BTreeMap::new(),
        }
    }

    /// The guest of this name; `memory_bytes` is for those without a size of their own.
    pub(super) fn guest(&mut self, name: &str, memory_bytes: u64) -> anyhow::Result<Guest> {
        let Some(recipe) = self
            .recipes
            .iter()
            .find(|recipe| recipe.name == name)
            .copied()
        else {
            let known: Vec<_> = self.recipes.iter().map(|recipe| recipe.name).collect();
            bail!("no guest called {name}, there are: {}", known.join(", "));
        };
        let to_percent = memory_bytes / 100 * FILLED_PERCENT;
        let (memory_bytes, fill_bytes) = recipe.sizes.unwrap_or((memory_bytes, to_percent));
        // Whole mebibytes, so also whole pages.
        let fill_bytes = fill_bytes / MIB * MIB;
        let hot_bytes = memory_bytes.checked_div(recipe.hot_one_in).unwrap_or(0);
        let (module, fill) = match self.from {
            ContentsFrom::Captured => {
                let fill = match recipe.repeats {
                    true => size_argument((hot_bytes / MIB).max(1) * MIB),
                    false => "module".to_owned(),
                };
                (Some(self.module(fill_bytes, recipe.repeats)?), fill)
            }
            ContentsFrom::Generated => (None, size_argument(fill_bytes)),
        };
        let mut words = vec![recipe.workload.to_owned(), format!("fill={fill}")];
        if hot_bytes > 0 {
            words.push(format!("hot={}K", hot_bytes / 1024));
        }
        if recipe.rate > 0 {
            words.push(format!("rate={}", recipe.rate));
        }
        words.push(format!("scan={}", recipe.scan));
        words.push(format!("cpus={}", self.cpus));
        Ok(Guest {
            name: name.to_owned(),
            memory_bytes,
            cpus: self.cpus,
            cmdline: words.join(" "),
            module,
            filled_bytes: fill_bytes,
            hot_bytes,
            filled_percent_min: if recipe.sizes.is_none() && !recipe.repeats {
                FILLED_PERCENT_MIN
            } else {
                0
            },
        })
    }

    /// A guest as the manifest has it.
    pub(super) fn listed(&self, guest: &Guest) -> GuestOfManifest {
        let contents = self.contents.values();
        let mut own = contents.filter(|contents| Some(&contents.path) == guest.module.as_ref());
        GuestOfManifest {
            guest: guest.clone(),
            contents: own.next().cloned(),
        }
    }

    /// The file with so many bytes of captured memory.
    fn module(&mut self, bytes: u64, repeats: bool) -> anyhow::Result<PathBuf> {
        if let Some(contents) = self.contents.get(&(bytes, repeats)) {
            return Ok(contents.path.clone());
        }
        let own = env::current_exe().context("cannot find the own program")?;
        let folder = own.with_file_name("me2-bench-contents");
        eprintln!("contents of {} MiB from captured memory", bytes / MIB);
        let mut contents = contents::prepare(bytes, &folder)?;
        if repeats {
            contents = contents::with_repeats(&contents, &folder)?;
        }
        eprintln!("zstd -1 packs them {:.2}:1", contents.zstd_ratio);
        let path = contents.path.clone();
        self.contents.insert((bytes, repeats), contents);
        Ok(path)
    }
}
