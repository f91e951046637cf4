//! What the model is fed with: values from files, written on the command line, or generated from shapes.

pub mod element;
pub mod generate;
pub mod image;
pub mod json;
pub mod npy;
pub mod npz;
pub mod protobuf;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use tenon_runtime::dtype::DType;
use tenon_runtime::graph::{Bindings, Dim, TypeInfo};
use tenon_runtime::session::ValueSpec;
use tenon_runtime::tensor::Value;

use self::generate::{Fill, Generator};
use self::image::ImageOptions;

/// One `--input`: a source of values, for the input of that name or for whatever its contents name.
#[derive(Clone, Debug, PartialEq)]
pub struct InputArg {
    pub name: Option<String>,
    pub source: Source,
}

/// Where values come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    File(PathBuf),
    Generated(Fill),
    Json(serde_json::Value),
}

impl FromStr for InputArg {
    type Err = String;

    /// `SOURCE` or `NAME=SOURCE`; a source is a path, `random[:LO..HI]`, `zeros`, `ones`, or JSON. Output names of some
    /// exporters hold `=`, and so do paths: the first `=` whose rest is a source decides.
    fn from_str(text: &str) -> Result<Self, String> {
        if Path::new(text).exists() {
            return Ok(InputArg { name: None, source: Source::File(text.into()) });
        }
        let mut problem = None;
        for (at, _) in text.match_indices('=') {
            match source(&text[at + 1..]) {
                Ok(source) => return Ok(InputArg { name: Some(text[..at].to_owned()), source }),
                Err(e) => problem = problem.or(Some(e)),
            }
        }
        match (problem, source(text)) {
            (_, Ok(source)) => Ok(InputArg { name: None, source }),
            (Some(problem), Err(_)) | (None, Err(problem)) => Err(problem),
        }
    }
}

fn source(text: &str) -> Result<Source, String> {
    if Path::new(text).exists() {
        return Ok(Source::File(text.into()));
    }
    if let Some(fill) = Fill::parse(text)? {
        return Ok(Source::Generated(fill));
    }
    if let Ok(json) = serde_json::from_str(text) {
        return Ok(Source::Json(json));
    }
    Err(format!("'{text}' is neither a file nor random[:LO..HI], zeros, ones or JSON"))
}

/// A value for one input of the model, and where it came from.
#[derive(Clone, Debug)]
pub struct Feed {
    pub name: String,
    pub value: Value,
    /// True when nobody gave this value and it was made from the input's shape.
    pub generated: bool,
}

/// The values of one run, and what the user should know about how they were made.
#[derive(Clone, Debug, Default)]
pub struct Feeds {
    pub feeds: Vec<Feed>,
    /// Sizes assumed for dimensions that nothing fixes.
    pub assumed: BTreeMap<String, usize>,
}

impl Feeds {
    /// What a session's `run` takes.
    pub fn as_run_inputs(&self) -> Vec<(&str, Value)> {
        self.feeds.iter().map(|f| (f.name.as_str(), f.value.clone())).collect()
    }

    /// The names of generated inputs.
    pub fn generated(&self) -> Vec<&str> {
        self.feeds.iter().filter(|f| f.generated).map(|f| f.name.as_str()).collect()
    }
}

/// Settings that several sources share.
pub struct Resolver<'a> {
    pub specs: &'a [ValueSpec],
    pub dims: &'a BTreeMap<String, usize>,
    pub image: &'a ImageOptions,
    pub seed: u64,
}

impl Resolver<'_> {
    /// Reads every source, then generates what is still missing; every value's dtype and rank is checked.
    pub fn resolve(&self, args: &[InputArg]) -> Result<Feeds> {
        let mut given: BTreeMap<usize, Value> = BTreeMap::new();
        let mut fills: BTreeMap<usize, Fill> = BTreeMap::new();
        // Named sources first, so that unnamed ones take what is left whatever the order.
        for arg in args.iter().filter(|a| a.name.is_some()).chain(args.iter().filter(|a| a.name.is_none())) {
            match (&arg.name, &arg.source) {
                (Some(name), Source::Generated(fill)) => {
                    fills.insert(self.index(name)?, *fill);
                }
                (None, Source::Generated(fill)) => {
                    let open = (0..self.specs.len()).filter(|i| !given.contains_key(i));
                    open.for_each(|i| {
                        fills.entry(i).or_insert(*fill);
                    });
                }
                _ => self.read_source(arg, &mut given)?,
            }
        }
        self.complete(given, &fills)
    }

    /// The position of the input named `name`.
    fn index(&self, name: &str) -> Result<usize> {
        self.specs.iter().position(|s| s.name == name).with_context(|| {
            let names: Vec<&str> = self.specs.iter().map(|s| s.name.as_str()).collect();
            format!("the model has no input '{name}'; its inputs are: {}", names.join(", "))
        })
    }

    fn read_source(&self, arg: &InputArg, given: &mut BTreeMap<usize, Value>) -> Result<()> {
        let target = arg.name.as_deref().map(|n| self.index(n)).transpose()?;
        match &arg.source {
            Source::Json(json) => self.place_json(json, target, given),
            Source::File(path) => self
                .read_file(path, target, given)
                .with_context(|| format!("cannot take inputs from {}", path.display())),
            Source::Generated(_) => Ok(()),
        }
    }

    fn read_file(
        &self,
        path: &Path,
        target: Option<usize>,
        given: &mut BTreeMap<usize, Value>,
    ) -> Result<()> {
        if path.is_dir() {
            ensure!(target.is_none(), "a folder of input_i.pb files gives all inputs: leave out NAME=");
            let files = protobuf::numbered(path, "input")?;
            let types = self.specs.iter().map(|s| s.ty.as_ref()).collect::<Vec<_>>();
            let names = self.specs.iter().map(|s| s.name.as_str()).collect::<Vec<_>>();
            for (index, value) in protobuf::read_matched(&files, &names, &types)? {
                given.insert(index, value);
            }
            return Ok(());
        }
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
        match extension.as_str() {
            "npz" => {
                let wanted = |name: &str| self.index(name).ok().and_then(|i| self.dtype(i));
                let mut arrays = npz::read(path, wanted)?;
                if let (Some(i), [_]) = (target, arrays.as_slice()) {
                    given.extend(arrays.pop().map(|(_, t)| (i, t.into())));
                    return Ok(());
                }
                for (name, tensor) in arrays {
                    if target.is_none_or(|i| self.specs[i].name == name) {
                        given.insert(self.index(&name)?, tensor.into());
                    }
                }
                if let Some(i) = target {
                    ensure!(given.contains_key(&i), "the archive has no array '{}'", self.specs[i].name);
                }
                Ok(())
            }
            "json" => {
                let text = std::fs::read_to_string(path)?;
                self.place_json(&serde_json::from_str(&text).context("not valid JSON")?, target, given)
            }
            "npy" => {
                let index = target.map_or_else(|| self.next_open(given), Ok)?;
                let file = std::io::BufReader::new(std::fs::File::open(path)?);
                given.insert(index, npy::read(file, self.dtype(index))?.into());
                Ok(())
            }
            "pb" => {
                let (name, value) = protobuf::read(path, None)?;
                let named = self.specs.iter().position(|s| s.name == name);
                let index = target.or(named).map_or_else(|| self.next_open(given), Ok)?;
                let value = match &self.specs[index].ty {
                    Some(TypeInfo::Tensor(_)) | None => value,
                    ty => protobuf::read(path, ty.as_ref())?.1,
                };
                given.insert(index, value);
                Ok(())
            }
            "png" | "jpg" | "jpeg" => {
                let index = target.map_or_else(|| self.next_open(given), Ok)?;
                let spec = &self.specs[index];
                let ty = spec
                    .ty
                    .as_ref()
                    .with_context(|| format!("input '{}' has no declared type", spec.name))?;
                let fixed = generate::with_fixed_dims(ty, self.dims);
                given.insert(index, image::read(path, &fixed, self.image)?.into());
                Ok(())
            }
            _ => bail!(
                "unknown kind of file: inputs are .npy, .npz, .pb, .json, .png, .jpg or a folder of input_i.pb"
            ),
        }
    }

    /// JSON for one input, or an object whose keys are input names.
    fn place_json(
        &self,
        json: &serde_json::Value,
        target: Option<usize>,
        given: &mut BTreeMap<usize, Value>,
    ) -> Result<()> {
        let mut put = |index: usize, json: &serde_json::Value| -> Result<()> {
            let spec = &self.specs[index];
            let value =
                json::value(json, spec.ty.as_ref()).with_context(|| format!("input '{}'", spec.name))?;
            given.insert(index, value);
            Ok(())
        };
        match (target, json) {
            (Some(index), _) => put(index, json),
            (None, serde_json::Value::Object(fields)) if !fields.contains_key("data") => {
                fields.iter().try_for_each(|(name, json)| put(self.index(name)?, json))
            }
            (None, _) => {
                let index = self.next_open(given)?;
                let spec = &self.specs[index];
                given.insert(index, json::value(json, spec.ty.as_ref())?);
                Ok(())
            }
        }
    }

    /// The first required input without a value.
    fn next_open(&self, given: &BTreeMap<usize, Value>) -> Result<usize> {
        (0..self.specs.len())
            .find(|i| !given.contains_key(i) && !self.specs[*i].optional)
            .with_context(|| format!("more values than the model's {} inputs were given", self.specs.len()))
    }

    fn dtype(&self, index: usize) -> Option<DType> {
        self.specs[index].ty.as_ref().and_then(TypeInfo::dtype)
    }

    fn complete(&self, mut given: BTreeMap<usize, Value>, fills: &BTreeMap<usize, Fill>) -> Result<Feeds> {
        let mut bindings: Bindings = self.dims.iter().map(|(k, v)| (k.as_str().into(), *v as i64)).collect();
        for (i, value) in &given {
            check(&self.specs[*i], value)?;
            bind(&self.specs[*i], value, &mut bindings);
        }
        let mut generator = Generator::new(self.seed, bindings);
        let mut feeds = Vec::new();
        for (i, spec) in self.specs.iter().enumerate() {
            let (value, generated) = match (given.remove(&i), fills.get(&i)) {
                (Some(value), _) => (value, false),
                (None, None) if spec.optional => continue,
                (None, fill) => {
                    let value = generator
                        .value(&spec.name, spec.ty.as_ref(), fill.copied().unwrap_or_default())
                        .with_context(|| format!("cannot make a value for input '{}'", spec.name))?;
                    (value, true)
                }
            };
            feeds.push(Feed { name: spec.name.clone(), value, generated });
        }
        Ok(Feeds { feeds, assumed: generator.into_assumed() })
    }
}

/// Checks dtype and rank of a tensor; sizes are the session's business.
fn check(spec: &ValueSpec, value: &Value) -> Result<()> {
    let (Some(TypeInfo::Tensor(wanted)), Value::Tensor(tensor)) = (&spec.ty, value) else { return Ok(()) };
    ensure!(
        wanted.dtype == DType::Undefined || wanted.dtype == tensor.dtype(),
        "input '{}' is {} in the model, a {} value was given: convert it first",
        spec.name,
        wanted.dtype,
        tensor.dtype()
    );
    if let Some(shape) = &wanted.shape {
        ensure!(
            shape.rank() == tensor.rank(),
            "input '{}' has {} dimensions in the model ({}), a value of shape {:?} was given",
            spec.name,
            shape.rank(),
            wanted,
            tensor.dims()
        );
    }
    Ok(())
}

/// Learns the sizes of symbolic dimensions from a value that was given.
fn bind(spec: &ValueSpec, value: &Value, bindings: &mut Bindings) {
    let (Some(TypeInfo::Tensor(ty)), Value::Tensor(tensor)) = (&spec.ty, value) else { return };
    for (dim, size) in ty.shape.iter().flat_map(|s| s.iter()).zip(tensor.dims()) {
        if let Dim::Symbol(symbol) = dim {
            bindings.entry(symbol.clone()).or_insert(*size as i64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon_runtime::graph::Shape;
    use tenon_runtime::tensor::Tensor;

    fn spec(name: &str, dtype: DType, dims: &[Dim]) -> ValueSpec {
        let ty = TypeInfo::tensor(dtype, dims.iter().cloned().collect::<Shape>());
        ValueSpec { name: name.into(), ty: Some(ty), optional: false }
    }

    fn resolve(specs: &[ValueSpec], args: &[&str]) -> Result<Feeds> {
        let args: Vec<InputArg> =
            args.iter().map(|a| a.parse().map_err(anyhow::Error::msg)).collect::<Result<_>>()?;
        let image = <ImageOptionsParser as clap::Parser>::parse_from(["test"]).image;
        Resolver { specs, dims: &BTreeMap::new(), image: &image, seed: 0 }.resolve(&args)
    }

    #[derive(clap::Parser)]
    struct ImageOptionsParser {
        #[command(flatten)]
        image: ImageOptions,
    }

    #[test]
    fn arguments_name_an_input_or_none() {
        let parse = |s: &str| s.parse::<InputArg>();
        let random = Source::Generated(Fill::Random { range: Some((0.0, 1.0)) });
        assert_eq!(parse("a=b=random:0..1").unwrap(), InputArg { name: Some("a=b".into()), source: random });
        assert_eq!(parse("x=[1, 2]").unwrap().source, Source::Json(serde_json::json!([1, 2])));
        assert_eq!(parse("ones").unwrap().name, None);
        assert!(parse("x=missing.npy").unwrap_err().contains("'missing.npy' is neither a file"));
        assert!(parse("x=random:3").unwrap_err().contains("LO..HI"));
    }

    #[test]
    fn given_values_fix_the_symbolic_sizes_of_generated_ones() {
        let specs = [
            spec("ids", DType::I64, &["batch".into(), "sequence".into()]),
            spec("mask", DType::I64, &["batch".into(), "sequence".into()]),
        ];
        let feeds = resolve(&specs, &["ids=[[1, 2, 3], [4, 5, 6]]"]).unwrap();
        let mask = feeds.feeds[1].value.as_tensor().unwrap();
        assert_eq!(mask.dims(), [2, 3]);
        assert_eq!(feeds.generated(), ["mask"]);
        assert!(feeds.assumed.is_empty());
    }

    #[test]
    fn unknown_names_and_wrong_types_are_errors_that_name_them() {
        let specs = [spec("x", DType::F32, &[Dim::Known(2)])];
        let message = |args: &[&str]| format!("{:#}", resolve(&specs, args).unwrap_err());
        assert!(message(&["y=[1, 2]"]).contains("no input 'y'; its inputs are: x"));
        assert!(message(&["x=[[1, 2]]"]).contains("'x' has 1 dimensions"));
        assert!(message(&[r#"x={"dtype": "int32", "data": [1, 2]}"#]).contains("'x' is float in the model"));
        assert!(message(&["[1, 2]", "[1, 2]"]).contains("more values"));
    }

    #[test]
    fn files_are_taken_by_name_or_in_order() {
        let folder = std::env::temp_dir().join(format!("tenon-inputs-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let specs = [spec("x", DType::F32, &[Dim::Known(1)]), spec("y", DType::F32, &[Dim::Known(1)])];
        let (one, two) =
            (Tensor::from_slice(&[1], &[1f32]).unwrap(), Tensor::from_slice(&[1], &[2f32]).unwrap());
        let archive = folder.join("all.npz");
        npz::write(&archive, [("y", &two), ("x", &one)]).unwrap();
        let single = folder.join("one.npy");
        npy::write(std::fs::File::create(&single).unwrap(), &one).unwrap();
        let first =
            |feeds: &Feeds, i: usize| feeds.feeds[i].value.as_tensor().unwrap().to_vec::<f32>().unwrap()[0];
        let feeds = resolve(&specs, &[archive.to_str().unwrap()]).unwrap();
        assert_eq!((first(&feeds, 0), first(&feeds, 1)), (1.0, 2.0));
        let feeds = resolve(&specs, &[single.to_str().unwrap(), "x=[5]"]).unwrap();
        assert_eq!((first(&feeds, 0), first(&feeds, 1)), (5.0, 1.0));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
