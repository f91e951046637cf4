//! `runner inspect`: the model as it is after a stage of the pipeline.

use anstream::println;
use anyhow::Result;
use serde_json::json;
use tenon_runtime::session::{Session, SessionOptions, Stage, ValueSpec};

use crate::args::{InspectArgs, PartitionFormat, StageArg};
use crate::{open, output, partition};

/// Loads the model and prints the stage.
pub fn run(args: &InspectArgs) -> Result<()> {
    let environment = open::environment(&args.session.provider_dir)?;
    let options = SessionOptions { inspect: true, ..open::options(&args.session)? };
    let opened = open::open(&environment, &args.model, &options, &args.talk)?;
    let session = &opened.session;
    if args.dot {
        dump_partition(session, PartitionFormat::Dot);
    } else if args.svg {
        dump_partition(session, PartitionFormat::Svg);
    } else if args.talk.json {
        println!("{}", describe(session, args.stage)?);
    } else {
        println!("{}", session.inspect(stage(args.stage))?.trim_end());
    }
    Ok(())
}

fn stage(stage: StageArg) -> Stage {
    match stage {
        StageArg::Graph => Stage::Graph,
        StageArg::Shape => Stage::Shape,
        StageArg::Optimized => Stage::Optimized,
        StageArg::Partitions => Stage::Partitions,
        StageArg::Plan => Stage::Plan,
    }
}

/// Prints the partition in one of its forms.
pub fn dump_partition(session: &Session, format: PartitionFormat) {
    match format {
        PartitionFormat::Dot => println!("{}", session.partition_dot().trim_end()),
        PartitionFormat::Svg => println!("{}", partition::svg(session).trim_end()),
        PartitionFormat::Json => println!("{}", partition::json(session)),
    }
}

fn describe(session: &Session, stage_arg: StageArg) -> Result<serde_json::Value> {
    let value = |s: &ValueSpec| {
        let ty = s.ty.as_ref().map(ToString::to_string);
        json!({ "name": s.name, "type": ty, "optional": s.optional })
    };
    let stages: serde_json::Map<String, serde_json::Value> = session
        .report()
        .stages
        .iter()
        .map(|(name, time)| (name.to_string(), json!(crate::quantity::milliseconds(*time))))
        .collect();
    Ok(json!({
        "inputs": session.inputs().iter().map(value).collect::<Vec<_>>(),
        "outputs": session.outputs().iter().map(value).collect::<Vec<_>>(),
        "metadata": session.metadata(),
        "providers": output::provider_counts(session),
        "stage_ms": stages,
        "text": session.inspect(stage(stage_arg))?,
    }))
}
