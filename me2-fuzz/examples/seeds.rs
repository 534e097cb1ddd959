//! Writes the seeds of all fuzz targets: `cargo run -p me2-fuzz --example seeds`.

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    for target in me2_fuzz::TARGETS {
        let folder = seeds.join(target.name);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in (target.seeds)() {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
