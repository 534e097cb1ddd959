//! The experiments: which guests, links and schemes, and how their results are told.

mod against_precopy;
mod against_qemu;
mod guests;
mod options;
mod parts;
mod wan;

use std::{env, io::Write, path::Path, process::ExitCode};

use serde_json::Value;

use crate::{
    cases, codec, paging, plots, priority, probes,
    results::{
        Build, Experiment, Folder, Host, Manifest, Rival, SCHEMA_VERSION, SchemeOfManifest,
        timestamp,
    },
    run::{Measured, Plan, carry_out},
    schemes::{How, Programs, describe_qemu, qemu_version},
    summary, transport,
};
pub(crate) use against_precopy::{ALL, HYBRID, PLAIN, USEFUL};
use guests::Catalog;
use options::Common;
pub(crate) use options::{Me2Args, Output, PlotArgs, QemuArgs, WanArgs};
pub(crate) use parts::{AUTO, WHOLE};
pub(crate) use wan::{RATES_MBIT, closely};

/// `me2-bench me2`.
pub(crate) fn me2(args: &Me2Args) -> anyhow::Result<ExitCode> {
    let experiment = args.experiment();
    let mut catalog = Catalog::new(&args.common, guests::filled());
    let plan = match experiment {
        Experiment::Ablation => parts::ablation(args, &mut catalog)?,
        Experiment::Codecs => parts::codecs(args, &mut catalog)?,
        _ => against_precopy::plan(args, &mut catalog)?,
    };
    conduct(experiment, &args.common, plan, &catalog)
}

/// `me2-bench qemu`.
pub(crate) fn qemu(args: &QemuArgs) -> anyhow::Result<ExitCode> {
    let mut catalog = Catalog::new(&args.common, guests::rewriting(args.common.quick));
    let plan = against_qemu::plan(args, &mut catalog)?;
    conduct(Experiment::Qemu, &args.common, plan, &catalog)
}

/// `me2-bench wan`.
pub(crate) fn wan(args: &WanArgs) -> anyhow::Result<ExitCode> {
    let mut recipes = guests::rewriting(args.common.quick);
    recipes.extend(guests::filled());
    let mut catalog = Catalog::new(&args.common, recipes);
    let plan = wan::plan(args, &mut catalog)?;
    conduct(Experiment::Wan, &args.common, plan, &catalog)
}

/// `me2-bench plot`: summary and plots anew, from what was kept.
pub(crate) fn plot(args: &PlotArgs) -> anyhow::Result<ExitCode> {
    let folder = Folder::at(&args.folder);
    match folder.experiment()?.as_str() {
        transport::EXPERIMENT => return transport::plot(&folder, args.output),
        codec::EXPERIMENT => return codec::plot(&folder, args.output),
        probes::NAME | paging::NAME => return cases::plot(&folder, args.output),
        _ => {}
    }
    let (folder, manifest, samples) = Folder::open(&args.folder)?;
    let summary = summary::of(&manifest, &samples);
    folder.write("summary.json", &summary.document)?;
    plots::draw(&folder, &manifest, &samples)?;
    tell(args.output, &summary, folder.path())
}

fn conduct(
    experiment: Experiment,
    common: &Common,
    plan: Plan,
    catalog: &Catalog,
) -> anyhow::Result<ExitCode> {
    let programs = common.programs();
    priority::raise();
    let mut manifest = manifest(experiment, common, &plan, catalog, &programs)?;
    let folder = Folder::create(common.results.as_deref(), experiment.name())?;
    eprintln!("results: {}", folder.path().display());
    folder.write("manifest.json", &manifest)?;
    let Measured { samples, left_out } = carry_out(&plan, &programs, &folder)?;
    if !left_out.is_empty() {
        manifest.left_out = left_out;
        folder.write("manifest.json", &manifest)?;
    }
    let summary = summary::of(&manifest, &samples);
    folder.write("summary.json", &summary.document)?;
    plots::draw(&folder, &manifest, &samples)?;
    tell(common.output, &summary, folder.path())
}

/// Prints the result; the exit status says whether it can be relied on.
fn tell(output: Output, summary: &summary::Summary, folder: &Path) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout();
    match output {
        Output::Human => write!(stdout, "{}", summary.human)?,
        Output::Json => {
            let mut document = summary.document.clone();
            document["results"] = Value::from(folder.display().to_string());
            writeln!(stdout, "{document:#}")?;
        }
    }
    for problem in &summary.problems {
        eprintln!("problem: {problem}");
    }
    match summary.problems.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}

fn manifest(
    experiment: Experiment,
    common: &Common,
    plan: &Plan,
    catalog: &Catalog,
    programs: &Programs,
) -> anyhow::Result<Manifest> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let cells = &plan.cells;
    let guests = cells.iter().map(|cell| {
        let name = cell.guest.name.clone();
        let listed = catalog.listed(&cell.guest);
        (name, listed)
    });
    let mut schemes: Vec<SchemeOfManifest> = Vec::new();
    for cell in cells {
        let arguments = match &cell.scheme.how {
            How::Me2(arguments) => format!("me2 hybrid-migrate {}", arguments.join(" ")),
            How::Qemu(mode) => describe_qemu(*mode, &cell.guest).to_string(),
        };
        let name = cell.scheme.name.clone();
        if schemes.iter().all(|scheme| scheme.name != name) {
            schemes.push(SchemeOfManifest { name, arguments });
        }
    }
    let with_qemu = cells
        .iter()
        .find(|cell| matches!(cell.scheme.how, How::Qemu(_)));
    let rivals = with_qemu.map(|cell| {
        Ok::<_, anyhow::Error>(Rival {
            name: "qemu".into(),
            version: qemu_version(programs)?,
            arguments: crate::schemes::qemu_arguments(&cell.guest).join(" "),
        })
    });
    Ok(Manifest {
        schema_version: SCHEMA_VERSION,
        experiment,
        started: timestamp(),
        command: format!("cargo xtask bench {}", arguments.join(" ")),
        me2: Build::of_this_tree(),
        host: Host::of_this_machine(),
        rivals: rivals.transpose()?.into_iter().collect(),
        links: cells
            .iter()
            .map(|cell| (cell.link, cell.link.describe()))
            .collect(),
        guests: guests.collect(),
        schemes,
        runs: plan.runs,
        seed: plan.seed,
        notes: common.notes.clone(),
        left_out: Vec::new(),
    })
}
