//! SVMClassifier and SVMRegressor: kernels over support vectors, or linear when there are none. Probabilities of more
//! than two classes are coupled pairwise (Wu, Lin and Weng, 2004).

use super::{
    DOMAIN, Labels, PostTransform, Rows, SecondClass, best, check_numeric, finish_scores, set_scores,
};
use crate::error::{OpError, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::Operator;
use crate::tensor::DType;

/// The similarity of two feature vectors.
#[derive(Clone, Copy, Debug)]
enum Similarity {
    Linear,
    Poly { gamma: f32, offset: f32, degree: f32 },
    Rbf { gamma: f32 },
    Sigmoid { gamma: f32, offset: f32 },
}

impl Similarity {
    fn of(node: &Node) -> Result<Similarity> {
        let params = node.floats("kernel_params")?.unwrap_or(&[]);
        let param = |i: usize| params.get(i).copied().unwrap_or(0.0);
        let (gamma, offset, degree) = (param(0), param(1), param(2));
        Ok(match node.string("kernel_type", "LINEAR")? {
            "LINEAR" => Similarity::Linear,
            "POLY" => Similarity::Poly { gamma, offset, degree },
            "RBF" => Similarity::Rbf { gamma },
            "SIGMOID" => Similarity::Sigmoid { gamma, offset },
            other => return Err(OpError::invalid(format!("kernel_type '{other}' is not one of ONNX's"))),
        })
    }

    fn apply(self, a: &[f32], b: &[f32]) -> f32 {
        let dot = || a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        match self {
            Similarity::Linear => dot(),
            Similarity::Poly { gamma, offset, degree } => (gamma * dot() + offset).powf(degree),
            Similarity::Rbf { gamma } => {
                (-gamma * a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>()).exp()
            }
            Similarity::Sigmoid { gamma, offset } => (gamma * dot() + offset).tanh(),
        }
    }
}

struct Machine {
    similarity: Similarity,
    coefficients: Vec<f32>,
    vectors: Vec<f32>,
    /// Number of support vectors; 0 means a linear model.
    count: usize,
    rho: Vec<f32>,
    transform: PostTransform,
}

impl Machine {
    fn of(node: &Node, count: usize) -> Result<Machine> {
        check_numeric(node)?;
        let floats = |name: &str| node.floats(name).map(|values| values.unwrap_or(&[]).to_vec());
        Ok(Machine {
            similarity: if count == 0 { Similarity::Linear } else { Similarity::of(node)? },
            coefficients: floats("coefficients")?,
            vectors: floats("support_vectors")?,
            count,
            rho: floats("rho")?,
            transform: PostTransform::of(node)?,
        })
    }

    /// Errors unless there are `coefficient_rows` coefficients a vector (a feature when linear) and `rho` offsets.
    fn check(&self, width: usize, coefficient_rows: usize, rho: usize) -> Result<()> {
        let per_row = if self.count == 0 { width } else { self.count };
        let fits = self.coefficients.len() == coefficient_rows * per_row
            && (self.count == 0 || self.vectors.len() == self.count * width)
            && self.rho.len() >= rho;
        if fits {
            return Ok(());
        }
        Err(OpError::invalid(format!(
            "{} support vectors of {width} features: got {} coefficients, {} vector elements and {} offsets",
            self.count,
            self.coefficients.len(),
            self.vectors.len(),
            self.rho.len()
        )))
    }

    fn similarities(&self, features: &[f32]) -> Vec<f32> {
        self.vectors
            .chunks_exact(features.len().max(1))
            .map(|vector| self.similarity.apply(features, vector))
            .collect()
    }
}

struct Regressor {
    machine: Machine,
    one_class: bool,
}

impl Kernel for Regressor {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let rows = Rows::of(cx, DType::F32)?;
        let machine = &self.machine;
        machine.check(rows.width, 1, 1)?;
        let mut out = Vec::with_capacity(rows.count);
        for features in rows.tensor.as_slice::<f32>()?.chunks_exact(rows.width.max(1)) {
            let terms = if machine.count == 0 { features.to_vec() } else { machine.similarities(features) };
            let score =
                machine.coefficients.iter().zip(&terms).map(|(c, t)| c * t).sum::<f32>() + machine.rho[0];
            if self.one_class {
                out.push(if score > 0.0 { 1.0 } else { -1.0 });
            } else {
                finish_scores(&[score], SecondClass::No, machine.transform, &mut out);
            }
        }
        set_scores(cx, 0, rows.count, &out)
    }
}

struct Classifier {
    machine: Machine,
    labels: Labels,
    per_class: Vec<usize>,
    prob_a: Vec<f32>,
    prob_b: Vec<f32>,
}

impl Classifier {
    /// The pairwise decisions of one row and the votes of each class.
    fn decide(&self, features: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let machine = &self.machine;
        let classes = self.per_class.len();
        let kernels = machine.similarities(features);
        let starts: Vec<usize> = self
            .per_class
            .iter()
            .scan(0, |at, &count| {
                *at += count;
                Some(*at - count)
            })
            .collect();
        let part = |row: usize, class: usize| -> f32 {
            let span = starts[class]..starts[class] + self.per_class[class];
            let coefficients = &machine.coefficients[row * machine.count..][span.clone()];
            coefficients.iter().zip(&kernels[span]).map(|(c, k)| c * k).sum()
        };
        let mut decisions = Vec::new();
        let mut votes = vec![0.0; classes];
        for i in 0..classes {
            for j in i + 1..classes {
                let decision = machine.rho[decisions.len()] + part(j - 1, i) + part(i, j);
                votes[if decision > 0.0 { i } else { j }] += 1.0;
                decisions.push(decision);
            }
        }
        (decisions, votes)
    }

    fn probabilities(&self, decisions: &[f32]) -> Vec<f32> {
        let classes = self.per_class.len();
        let mut pairs = vec![0f32; classes * classes];
        let mut at = 0;
        for i in 0..classes {
            for j in i + 1..classes {
                let value = 1.0 - super::logistic(decisions[at] * self.prob_a[at] + self.prob_b[at]);
                let value = value.clamp(1e-7, 1.0 - 1e-7);
                pairs[i * classes + j] = value;
                pairs[j * classes + i] = 1.0 - value;
                at += 1;
            }
        }
        couple(classes, &pairs)
    }

    /// The class of a row and how a single score of it is extended.
    fn classify(&self, scores: &[f32], votes: &[f32]) -> (usize, SecondClass) {
        let ranked = if votes.is_empty() { scores } else { votes };
        let class = best(ranked);
        if self.machine.rho.len() != 1 {
            return (class, SecondClass::No);
        }
        if self.labels.len() != 2 {
            let weight = ranked.get(class).copied().unwrap_or(0.0);
            return (usize::from(weight > 0.0), SecondClass::No);
        }
        let softmax = matches!(self.machine.transform, PostTransform::Softmax | PostTransform::SoftmaxZero);
        (class, if softmax { SecondClass::Complement } else { SecondClass::Negated })
    }
}

/// Class probabilities from pairwise ones.
fn couple(classes: usize, pairs: &[f32]) -> Vec<f32> {
    let pair = |i: usize, j: usize| pairs[i * classes + j];
    let mut q = vec![0f32; classes * classes];
    let mut p = vec![1.0 / classes as f32; classes];
    for t in 0..classes {
        for j in (0..classes).filter(|&j| j != t) {
            q[t * classes + t] += pair(j, t) * pair(j, t);
            q[t * classes + j] = -pair(j, t) * pair(t, j);
        }
    }
    let mut qp = vec![0f32; classes];
    for _ in 0..classes.max(100) {
        for (row, qp) in q.chunks_exact(classes).zip(&mut qp) {
            *qp = row.iter().zip(&p).map(|(q, p)| q * p).sum();
        }
        let mut pqp: f32 = p.iter().zip(&qp).map(|(p, qp)| p * qp).sum();
        let error = qp.iter().map(|qp| (qp - pqp).abs()).fold(0.0, f32::max);
        if error < 0.005 / classes as f32 {
            break;
        }
        for t in 0..classes {
            let own = q[t * classes + t];
            let step = (pqp - qp[t]) / own;
            p[t] += step;
            pqp = (pqp + step * (step * own + 2.0 * qp[t])) / ((1.0 + step) * (1.0 + step));
            for j in 0..classes {
                qp[j] = (qp[j] + step * q[t * classes + j]) / (1.0 + step);
                p[j] /= 1.0 + step;
            }
        }
    }
    p
}

impl Kernel for Classifier {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let rows = Rows::of(cx, DType::F32)?;
        let machine = &self.machine;
        let linear = machine.count == 0;
        let classes = if linear { self.labels.len().max(1) } else { self.per_class.len() };
        let pairs = classes * classes.saturating_sub(1) / 2;
        let (coefficient_rows, rho) = if linear { (classes, 1) } else { (classes - 1, pairs) };
        machine.check(rows.width, coefficient_rows, rho)?;
        let has_probabilities = !linear && !self.prob_a.is_empty();
        if has_probabilities && (self.prob_a.len() < pairs || self.prob_b.len() < pairs) {
            return Err(OpError::invalid(format!("{pairs} class pairs need as many prob_a and prob_b")));
        }
        let (mut chosen, mut out) = (Vec::with_capacity(rows.count), Vec::new());
        for features in rows.tensor.as_slice::<f32>()?.chunks_exact(rows.width.max(1)) {
            let (mut scores, votes) = if linear {
                let dot = |weights: &[f32]| weights.iter().zip(features).map(|(w, x)| w * x).sum::<f32>();
                let weights = machine.coefficients.chunks_exact(features.len());
                (weights.map(|weights| dot(weights) + machine.rho[0]).collect(), Vec::new())
            } else {
                self.decide(features)
            };
            if has_probabilities {
                scores = self.probabilities(&scores);
            }
            let (class, second) = self.classify(&scores, &votes);
            chosen.push(class);
            finish_scores(&scores, second, machine.transform, &mut out);
        }
        self.labels.set(cx, &chosen)?;
        set_scores(cx, 1, rows.count, &out)
    }
}

fn counts(values: &[i64]) -> Result<Vec<usize>> {
    let count = |&value: &i64| usize::try_from(value).ok().filter(|&value| value < 1 << 32);
    values.iter().map(count).collect::<Option<_>>().ok_or_else(|| {
        OpError::invalid(format!("numbers of support vectors must not be negative: {values:?}"))
    })
}

fn build_regressor(node: &Node) -> Result<Box<dyn Kernel>> {
    let count = counts(&[node.int("n_supports", 0)?])?[0];
    Ok(Box::new(Regressor { machine: Machine::of(node, count)?, one_class: node.flag("one_class", false)? }))
}

fn build_classifier(node: &Node) -> Result<Box<dyn Kernel>> {
    let per_class = counts(node.ints("vectors_per_class")?.unwrap_or(&[]))?;
    let machine = Machine::of(node, per_class.iter().sum())?;
    Ok(Box::new(Classifier {
        machine,
        labels: Labels::of(node, "classlabels_ints", "classlabels_strings")?,
        per_class,
        prob_a: node.floats("prob_a")?.unwrap_or(&[]).to_vec(),
        prob_b: node.floats("prob_b")?.unwrap_or(&[]).to_vec(),
    }))
}

pub const OPERATORS: &[Operator] = &[
    Operator::of(DOMAIN, "SVMRegressor", build_regressor),
    Operator::of(DOMAIN, "SVMClassifier", build_classifier),
];
