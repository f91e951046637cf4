//! TreeEnsemble, TreeEnsembleRegressor and TreeEnsembleClassifier.

use std::collections::HashMap;

use super::tree::{Branch, Forest, Leaf, Target, Test};
use super::{DOMAIN, Labels, PostTransform, Rows, SecondClass, check_numeric, finish_scores, set_scores};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::Operator;
use crate::ops::cast::set_converted;
use crate::ops::real::{Real, to_vec};
use crate::ops::rows::for_rows;
use crate::tensor::{DType, Tensor};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aggregate {
    Average,
    Sum,
    Min,
    Max,
}

/// Trees over f32 or f64 features.
enum Trees {
    F32(Forest<f32>),
    F64(Forest<f64>),
}

/// The aggregated weights of each target for each row; zero where no tree has a weight for the target.
struct Votes {
    scores: Vec<f32>,
    /// Whether a tree had a weight for the target.
    seen: Vec<bool>,
    rows: usize,
}

struct Ensemble {
    trees: Trees,
    aggregate: Aggregate,
    targets: usize,
    base: Vec<f32>,
    transform: PostTransform,
}

impl Ensemble {
    fn votes(&self, cx: &Context<'_>) -> Result<Votes> {
        match &self.trees {
            Trees::F32(forest) => self.votes_of(cx, forest),
            Trees::F64(forest) => self.votes_of(cx, forest),
        }
    }

    fn votes_of<T: Real>(&self, cx: &Context<'_>, forest: &Forest<T>) -> Result<Votes> {
        let rows = Rows::of(cx, T::DTYPE)?;
        if rows.width < forest.features() {
            return Err(OpError::invalid(format!(
                "the trees ask for {} features, got {}",
                forest.features(),
                rows.width
            )));
        }
        let (targets, width) = (self.targets, rows.width.max(1));
        let features = rows.tensor.as_slice::<T>()?;
        let mut cells = vec![(0f64, false); rows.count * targets];
        let work = forest.trees() * 16;
        for_rows(cx.parallel(), &mut cells, targets, work, &|row, cells| {
            forest.visit(&features[row * width..row * width + rows.width], |target, weight| {
                let (total, seen) = &mut cells[target];
                let weight = weight.to_f64();
                *total = match self.aggregate {
                    Aggregate::Min if *seen => total.min(weight),
                    Aggregate::Max if *seen => total.max(weight),
                    Aggregate::Min | Aggregate::Max => weight,
                    _ => *total + weight,
                };
                *seen = true;
            });
            if self.aggregate == Aggregate::Average {
                cells.iter_mut().for_each(|cell| cell.0 /= forest.trees() as f64);
            }
        });
        Ok(Votes {
            scores: cells.iter().map(|cell| cell.0 as f32).collect(),
            seen: cells.iter().map(|cell| cell.1).collect(),
            rows: rows.count,
        })
    }
}

struct Regressor {
    ensemble: Ensemble,
    /// The result has the input's type instead of f32.
    typed: bool,
}

impl Kernel for Regressor {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let Ensemble { targets, ref base, transform, .. } = self.ensemble;
        let votes = self.ensemble.votes(cx)?;
        let mut out = Vec::with_capacity(votes.scores.len());
        let mut scores = vec![0f32; targets];
        for row in votes.scores.chunks_exact(targets.max(1)) {
            for (i, (score, &vote)) in scores.iter_mut().zip(row).enumerate() {
                *score = vote + base.get(if base.len() == 1 { 0 } else { i }).copied().unwrap_or(0.0);
            }
            finish_scores(&scores, SecondClass::No, transform, &mut out);
        }
        let dtype = cx.input(0)?.dtype();
        if !self.typed || dtype == DType::F32 {
            return set_scores(cx, 0, votes.rows, &out);
        }
        let mut values = cx.scratch(DType::F32, &[votes.rows, targets])?;
        values.as_mut_slice::<f32>()?.copy_from_slice(&out);
        set_converted(cx, 0, values, dtype)
    }
}

struct Classifier {
    ensemble: Ensemble,
    labels: Labels,
    /// The class that all weights are for, when there are two classes.
    only_class: Option<usize>,
    all_positive: bool,
}

impl Classifier {
    /// The class of a row, and its scores as they are to be finished.
    fn classify(&self, scores: &mut Vec<f32>, seen: &[bool]) -> (usize, SecondClass) {
        let base = &self.ensemble.base;
        let Some(only) = self.only_class else {
            scores.iter_mut().zip(base).for_each(|(score, base)| *score += base);
            // A class that no tree voted for and that has no base value is not in the running.
            let runs = |&class: &usize| seen[class] || class < base.len();
            let top = |best: usize, class: usize| if scores[class] > scores[best] { class } else { best };
            let class = (0..scores.len()).filter(runs).reduce(top).unwrap_or(0);
            return (class, SecondClass::No);
        };
        scores[only] += base.get(only).copied().unwrap_or(0.0);
        let weight = scores[only];
        let second = if self.all_positive { SecondClass::Complement } else { SecondClass::Negated };
        let class = usize::from(weight > if self.all_positive { 0.5 } else { 0.0 });
        if only == 1 {
            return (class, SecondClass::No);
        }
        // One score for two classes stands for the second.
        scores.truncate(1);
        (class, second)
    }
}

impl Kernel for Classifier {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let votes = self.ensemble.votes(cx)?;
        let targets = self.ensemble.targets.max(1);
        let (mut classes, mut out) = (Vec::with_capacity(votes.rows), Vec::new());
        let mut scores = Vec::with_capacity(targets);
        for (row, seen) in votes.scores.chunks_exact(targets).zip(votes.seen.chunks_exact(targets)) {
            scores.clear();
            scores.extend_from_slice(row);
            let (class, second) = self.classify(&mut scores, seen);
            classes.push(class);
            finish_scores(&scores, second, self.ensemble.transform, &mut out);
        }
        self.labels.set(cx, &classes)?;
        set_scores(cx, 1, votes.rows, &out)
    }
}

/// An integer attribute list of the node table.
fn ints<'a>(node: &'a Node, name: &str) -> Result<&'a [i64]> {
    Ok(node.ints(name)?.unwrap_or(&[]))
}

/// A float list given as `name` or, in any float type, as `name_as_tensor`.
fn floats<T: Real>(node: &Node, name: &str) -> Result<Vec<T>> {
    if let Some(tensor) = node.tensor(&format!("{name}_as_tensor"))? {
        return to_vec(tensor);
    }
    Ok(node.floats(name)?.unwrap_or(&[]).iter().map(|&value| T::from_f32(value)).collect())
}

fn small(value: i64, what: &str) -> Result<u32> {
    u32::try_from(value).map_err(|_| OpError::invalid(format!("{what} must not be negative, got {value}")))
}

fn same_len(name: &str, len: usize, expected: usize) -> Result<()> {
    if len == expected {
        return Ok(());
    }
    Err(OpError::invalid(format!("attribute '{name}' has {len} entries, expected {expected}")))
}

fn test_of(mode: &str) -> Result<Option<Test>> {
    Ok(Some(match mode {
        "LEAF" => return Ok(None),
        "BRANCH_LEQ" => Test::LessOrEqual,
        "BRANCH_LT" => Test::Less,
        "BRANCH_GTE" => Test::GreaterOrEqual,
        "BRANCH_GT" => Test::Greater,
        "BRANCH_EQ" => Test::Equal,
        "BRANCH_NEQ" => Test::NotEqual,
        other => return Err(OpError::invalid(format!("nodes_modes '{other}' is not one of ONNX's"))),
    }))
}

/// The forest of the attributes `nodes_*` and `{kind}_*` (`class` or `target`), where nodes name each other by tree and
/// node id.
fn read_forest<T: Real>(node: &Node, kind: &str, targets: usize) -> Result<Forest<T>> {
    let (tree_ids, node_ids) = (ints(node, "nodes_treeids")?, ints(node, "nodes_nodeids")?);
    let modes = node.strings("nodes_modes")?.unwrap_or(&[]);
    let len = node_ids.len();
    same_len("nodes_treeids", tree_ids.len(), len)?;
    same_len("nodes_modes", modes.len(), len)?;
    let (yes, no) = (ints(node, "nodes_truenodeids")?, ints(node, "nodes_falsenodeids")?);
    let (features, thresholds) = (ints(node, "nodes_featureids")?, floats::<T>(node, "nodes_values")?);
    for (name, given) in [
        ("nodes_truenodeids", yes.len()),
        ("nodes_falsenodeids", no.len()),
        ("nodes_featureids", features.len()),
        ("nodes_values", thresholds.len()),
    ] {
        same_len(name, given, len)?;
    }
    let nan_is_yes = ints(node, "nodes_missing_value_tracks_true")?;
    let tests: Vec<Option<Test>> = modes.iter().map(|mode| test_of(mode)).collect::<Result<_>>()?;
    let (mut branches, mut leaves) = (0u32, 0u32);
    let mut places = HashMap::with_capacity(len);
    let mut roots = Vec::new();
    let mut last_tree = None;
    for i in 0..len {
        let counter = if tests[i].is_some() { &mut branches } else { &mut leaves };
        let target = if tests[i].is_some() { Target::Node(*counter) } else { Target::Leaf(*counter) };
        *counter += 1;
        if places.insert((tree_ids[i], node_ids[i]), target).is_some() {
            return Err(OpError::invalid(format!(
                "node {} of tree {} is given twice",
                node_ids[i], tree_ids[i]
            )));
        }
        if last_tree != Some(tree_ids[i]) {
            roots.push(target);
            last_tree = Some(tree_ids[i]);
        }
    }
    let place = |tree: i64, node: i64| {
        let found = places.get(&(tree, node)).copied();
        found.ok_or_else(|| OpError::invalid(format!("node {node} of tree {tree} does not exist")))
    };
    let mut table = Vec::with_capacity(branches as usize);
    for i in 0..len {
        if let Some(test) = tests[i] {
            table.push(Branch {
                feature: small(features[i], "a feature index")?,
                test,
                nan_is_yes: nan_is_yes.get(i).is_some_and(|&flag| flag != 0),
                threshold: thresholds[i],
                member: 0,
                yes: place(tree_ids[i], yes[i])?,
                no: place(tree_ids[i], no[i])?,
            });
        }
    }
    let (weights, leaves) = read_weights::<T>(node, kind, leaves, &place)?;
    Forest::new(table, leaves, weights, roots, Vec::new(), targets)
}

type Weights<T> = (Vec<(u32, T)>, Vec<Leaf>);

/// The weights of `leaves` leaves, grouped by leaf in the order given.
fn read_weights<T: Real>(
    node: &Node,
    kind: &str,
    leaves: u32,
    place: &dyn Fn(i64, i64) -> Result<Target>,
) -> Result<Weights<T>> {
    let values = floats::<T>(node, &format!("{kind}_weights"))?;
    let list = |part: &str| ints(node, &format!("{kind}_{part}"));
    let (trees, nodes, ids) = (list("treeids")?, list("nodeids")?, list("ids")?);
    same_len("weight tree ids", trees.len(), values.len())?;
    same_len("weight node ids", nodes.len(), values.len())?;
    same_len("weight target ids", ids.len(), values.len())?;
    let mut grouped: Vec<Vec<(u32, T)>> = vec![Vec::new(); leaves as usize];
    for i in 0..values.len() {
        // A weight of an interior node is never reached.
        if let Target::Leaf(leaf) = place(trees[i], nodes[i])? {
            grouped[leaf as usize].push((small(ids[i], "a target index")?, values[i]));
        }
    }
    let mut weights = Vec::with_capacity(values.len());
    let leaves = grouped
        .into_iter()
        .map(|group| {
            let start = weights.len() as u32;
            weights.extend(group);
            Leaf { start, end: weights.len() as u32 }
        })
        .collect();
    Ok((weights, leaves))
}

/// Trees in f64 when the features or the tables are, otherwise in f32.
fn read_trees(node: &Node, kind: &str, targets: usize) -> Result<Trees> {
    let wide_table =
        node.tensor("nodes_values_as_tensor")?.is_some_and(|tensor| tensor.dtype() == DType::F64);
    if wide_table || node.input_dtype(0) == DType::F64 {
        return Ok(Trees::F64(read_forest(node, kind, targets)?));
    }
    Ok(Trees::F32(read_forest(node, kind, targets)?))
}

fn build_regressor(node: &Node) -> Result<Box<dyn Kernel>> {
    check_numeric(node)?;
    let aggregate = match node.string("aggregate_function", "SUM")? {
        "AVERAGE" => Aggregate::Average,
        "SUM" => Aggregate::Sum,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        other => return Err(OpError::invalid(format!("aggregate_function '{other}' is not one of ONNX's"))),
    };
    let targets = small(node.int("n_targets", 1)?, "n_targets")? as usize;
    let trees = read_trees(node, "target", targets)?;
    let base = floats::<f32>(node, "base_values")?;
    let ensemble = Ensemble { trees, aggregate, targets, base, transform: PostTransform::of(node)? };
    Ok(Box::new(Regressor { ensemble, typed: false }))
}

fn build_classifier(node: &Node) -> Result<Box<dyn Kernel>> {
    check_numeric(node)?;
    let labels = Labels::of(node, "classlabels_int64s", "classlabels_strings")?;
    let ids = ints(node, "class_ids")?;
    let targets = labels.len().max(1);
    let trees = read_trees(node, "class", targets)?;
    let base = floats::<f32>(node, "base_values")?;
    let only_class = match ids {
        [first, rest @ ..] if targets == 2 && rest.iter().all(|id| id == first) => {
            Some(usize::from(*first == 1))
        }
        _ => None,
    };
    let all_positive = floats::<f32>(node, "class_weights")?.iter().all(|&weight| weight >= 0.0);
    let transform = PostTransform::of(node)?;
    let ensemble = Ensemble { trees, aggregate: Aggregate::Sum, targets, base, transform };
    Ok(Box::new(Classifier { ensemble, labels, only_class, all_positive }))
}

/// The forest of TreeEnsemble (version 5), where nodes and leaves are separate tables.
fn read_tables<T: Real>(node: &Node, targets: usize) -> Result<Forest<T>> {
    let tensor = |name: &str| -> Result<&Tensor> {
        node.tensor(name)?.ok_or_else(|| OpError::invalid(format!("attribute '{name}' is missing")))
    };
    let splits = to_vec::<T>(tensor("nodes_splits")?)?;
    let modes = tensor("nodes_modes")?.as_slice::<u8>()?;
    let len = splits.len();
    same_len("nodes_modes", modes.len(), len)?;
    let column = |name: &str| -> Result<&[i64]> {
        let values = ints(node, name)?;
        same_len(name, values.len(), len)?;
        Ok(values)
    };
    let (features, yes, no) =
        (column("nodes_featureids")?, column("nodes_truenodeids")?, column("nodes_falsenodeids")?);
    let (yes_leaf, no_leaf) = (column("nodes_trueleafs")?, column("nodes_falseleafs")?);
    let nan_is_yes = ints(node, "nodes_missing_value_tracks_true")?;
    let members = node.tensor("membership_values")?.map(to_vec::<T>).transpose()?.unwrap_or_default();
    let members: Vec<Vec<T>> = members.split(|value| value.is_nan()).map(<[T]>::to_vec).collect();
    let target = |index: i64, leaf: i64| -> Result<Target> {
        let index = small(index, "a node index")?;
        Ok(if leaf != 0 { Target::Leaf(index) } else { Target::Node(index) })
    };
    let mut member = 0;
    let mut branches = Vec::with_capacity(len);
    for i in 0..len {
        const TESTS: [Test; 7] = [
            Test::LessOrEqual,
            Test::Less,
            Test::GreaterOrEqual,
            Test::Greater,
            Test::Equal,
            Test::NotEqual,
            Test::Member,
        ];
        let test = *TESTS.get(usize::from(modes[i])).ok_or_else(|| {
            OpError::invalid(format!("nodes_modes holds {}, which is no comparison", modes[i]))
        })?;
        branches.push(Branch {
            feature: small(features[i], "a feature index")?,
            test,
            nan_is_yes: nan_is_yes.get(i).is_some_and(|&flag| flag != 0),
            threshold: splits[i],
            member,
            yes: target(yes[i], yes_leaf[i])?,
            no: target(no[i], no_leaf[i])?,
        });
        member += u32::from(test == Test::Member);
    }
    let weights = to_vec::<T>(tensor("leaf_weights")?)?;
    let ids = ints(node, "leaf_targetids")?;
    same_len("leaf_targetids", ids.len(), weights.len())?;
    let leaves = (0..weights.len() as u32).map(|i| Leaf { start: i, end: i + 1 }).collect();
    let weights = ids
        .iter()
        .zip(weights)
        .map(|(&id, w)| Ok((small(id, "a target index")?, w)))
        .collect::<Result<_>>()?;
    let roots = ints(node, "tree_roots")?;
    let roots = roots.iter().map(|&root| Ok(Target::Node(small(root, "a root")?))).collect::<Result<_>>()?;
    Forest::new(branches, leaves, weights, roots, members, targets)
}

fn build_ensemble(node: &Node) -> Result<Box<dyn Kernel>> {
    check_numeric(node)?;
    let targets = small(node.int("n_targets", 1)?, "n_targets")? as usize;
    let trees = match node.tensor("nodes_splits")?.map(Tensor::dtype) {
        Some(DType::F64) => Trees::F64(read_tables(node, targets)?),
        _ => Trees::F32(read_tables(node, targets)?),
    };
    let number = |name: &str, default: i64| -> Result<usize> {
        let value = node.int(name, default)?;
        usize::try_from(value)
            .map_err(|_| OpError::invalid(format!("attribute '{name}' must not be negative")))
    };
    let aggregates = [Aggregate::Average, Aggregate::Sum, Aggregate::Min, Aggregate::Max];
    let transforms = [
        PostTransform::None,
        PostTransform::Softmax,
        PostTransform::Logistic,
        PostTransform::SoftmaxZero,
        PostTransform::Probit,
    ];
    let unknown = |name: &str| OpError::invalid(format!("attribute '{name}' is not one of ONNX's"));
    let aggregate =
        *aggregates.get(number("aggregate_function", 1)?).ok_or_else(|| unknown("aggregate_function"))?;
    let transform = *transforms.get(number("post_transform", 0)?).ok_or_else(|| unknown("post_transform"))?;
    let ensemble = Ensemble { trees, aggregate, targets, base: Vec::new(), transform };
    Ok(Box::new(Regressor { ensemble, typed: true }))
}

pub const OPERATORS: &[Operator] = &[
    Operator::of(DOMAIN, "TreeEnsembleRegressor", build_regressor),
    Operator::of(DOMAIN, "TreeEnsembleClassifier", build_classifier),
    Operator::of(DOMAIN, "TreeEnsemble", build_ensemble),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Attribute;
    use crate::testing::{node, run, tensor};

    /// One tree: feature 0 at most 1 leads to leaf 1, else to leaf 2.
    fn regressor(children: [i64; 2]) -> Node {
        let ints = |values: &[i64]| Attribute::Ints(values.to_vec());
        let modes = ["BRANCH_LEQ", "LEAF", "LEAF"].map(str::to_string).to_vec();
        node(
            DOMAIN,
            "TreeEnsembleRegressor",
            3,
            &[
                ("n_targets", Attribute::Int(1)),
                ("nodes_treeids", ints(&[0; 3])),
                ("nodes_nodeids", ints(&[0, 1, 2])),
                ("nodes_featureids", ints(&[0; 3])),
                ("nodes_values", Attribute::Floats(vec![1.0, 0.0, 0.0])),
                ("nodes_modes", Attribute::Strings(modes)),
                ("nodes_truenodeids", ints(&[children[0], 0, 0])),
                ("nodes_falsenodeids", ints(&[children[1], 0, 0])),
                ("nodes_missing_value_tracks_true", ints(&[1, 0, 0])),
                ("target_treeids", ints(&[0; 2])),
                ("target_nodeids", ints(&[1, 2])),
                ("target_ids", ints(&[0; 2])),
                ("target_weights", Attribute::Floats(vec![10.0, 20.0])),
            ],
            1,
        )
    }

    #[test]
    fn rows_reach_the_leaf_of_their_branch() {
        let x = tensor(&[3, 1], &[1f32, 1.5, f32::NAN]);
        let y = run(&regressor([1, 2]), &[Some(x)]).unwrap().remove(0);
        assert_eq!((y.dims(), y.as_slice::<f32>().unwrap()), (&[3, 1][..], &[10.0, 20.0, 10.0][..]));
    }

    #[test]
    fn trees_that_loop_or_lead_nowhere_are_errors() {
        let x = || [Some(tensor(&[1, 1], &[0f32]))];
        assert!(run(&regressor([0, 2]), &x()).is_err());
        assert!(run(&regressor([1, 7]), &x()).is_err());
        assert!(run(&regressor([1, 2]), &[Some(tensor::<f32>(&[1, 0], &[]))]).is_err());
    }
}
