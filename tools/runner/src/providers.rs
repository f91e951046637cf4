//! `runner providers`: what can run models here, and why a provider cannot.

use anstream::println;
use anyhow::Result;
use serde_json::{Value as Json, json};
use tenon_roofline::table::Table;
use tenon_runtime::session::ProviderInfo;

use crate::args::ProvidersArgs;
use crate::open;
use crate::quantity;

/// Lists every provider with its devices.
pub fn run(args: &ProvidersArgs) -> Result<()> {
    let providers = open::environment(&args.provider_dir)?.providers();
    if args.talk.json {
        println!("{}", json!({ "providers": providers.iter().map(provider_json).collect::<Vec<_>>() }));
        return Ok(());
    }
    let mut table = Table::new(&["provider", "version", "usable", "device", "arch", ">memory", "from"]);
    for p in &providers {
        let usable = if p.score > 0 { "yes".to_owned() } else { format!("no: {}", p.reason) };
        let mut first = [p.name.clone(), p.version.clone(), usable];
        if p.devices.is_empty() {
            table.row(first.iter().cloned().chain(["-", "-", "-"].map(str::to_owned)).chain([source(p)]));
        }
        for d in &p.devices {
            let device =
                [format!("{}: {}", d.index, d.name), d.arch.clone(), quantity::bytes(d.memory_bytes)];
            table.row(first.iter().cloned().chain(device).chain([source(p)]));
            first = Default::default();
        }
    }
    println!("{table}");
    Ok(())
}

/// The library's path, or that it is linked in.
fn source(p: &ProviderInfo) -> String {
    p.path.as_ref().map_or_else(|| "built in".to_owned(), |path| path.display().to_string())
}

fn provider_json(p: &ProviderInfo) -> Json {
    let devices: Vec<Json> = p
        .devices
        .iter()
        .map(|d| {
            json!({ "index": d.index, "name": d.name, "arch": d.arch, "chip": d.chip, "pci": d.pci,
                    "memory_bytes": d.memory_bytes, "memory_gb_per_s": d.memory_gb_per_s,
                    "compute_units": d.compute_units })
        })
        .collect();
    json!({ "name": p.name, "vendor": p.vendor, "version": p.version, "build_info": p.build_info,
            "score": p.score, "reason": p.reason, "source": source(p), "devices": devices })
}
