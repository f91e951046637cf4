//! Decision trees as one flat table of nodes, and the walk from a root to its leaf.

use crate::error::{OpError, Result};
use crate::ops::real::Real;

/// The test of an interior node, true on the way to `yes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
    /// The feature is in member set `member`.
    Member,
}

/// Where a branch leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Node(u32),
    Leaf(u32),
}

/// An interior node.
#[derive(Clone, Copy, Debug)]
pub struct Branch<T> {
    pub feature: u32,
    pub test: Test,
    /// Take `yes` when the feature is NaN.
    pub nan_is_yes: bool,
    pub threshold: T,
    /// Index of the member set of a [`Test::Member`].
    pub member: u32,
    pub yes: Target,
    pub no: Target,
}

/// A leaf: its weights are `weights[start .. end]` of the forest.
#[derive(Clone, Copy, Debug)]
pub struct Leaf {
    pub start: u32,
    pub end: u32,
}

/// Trees in which every walk ends at a leaf.
pub struct Forest<T> {
    branches: Vec<Branch<T>>,
    leaves: Vec<Leaf>,
    /// (target, weight) pairs.
    weights: Vec<(u32, T)>,
    roots: Vec<Target>,
    members: Vec<Vec<T>>,
    /// One more than the highest feature index.
    features: usize,
    /// True when every test is [`Test::LessOrEqual`].
    uniform: bool,
}

impl<T: Real> Forest<T> {
    /// Checks that branches lead to existing nodes, that no walk visits a node twice and that targets are below
    /// `targets`.
    pub fn new(
        branches: Vec<Branch<T>>,
        leaves: Vec<Leaf>,
        weights: Vec<(u32, T)>,
        roots: Vec<Target>,
        members: Vec<Vec<T>>,
        targets: usize,
    ) -> Result<Forest<T>> {
        let mut parents = vec![0u8; branches.len()];
        let mut check = |target: Target| match target {
            Target::Node(node) => match parents.get_mut(node as usize) {
                Some(0) => {
                    parents[node as usize] = 1;
                    Ok(())
                }
                Some(_) => Err(OpError::invalid(format!("tree node {node} has more than one parent"))),
                None => Err(OpError::invalid(format!("tree node {node} does not exist"))),
            },
            Target::Leaf(leaf) if (leaf as usize) < leaves.len() => Ok(()),
            Target::Leaf(leaf) => Err(OpError::invalid(format!("tree leaf {leaf} does not exist"))),
        };
        // With one parent at most and roots that have none, a walk from a root cannot return to a node.
        for &root in &roots {
            check(root)?;
        }
        for branch in &branches {
            check(branch.yes)?;
            check(branch.no)?;
            if branch.test == Test::Member && branch.member as usize >= members.len() {
                return Err(OpError::invalid("a set membership test has no members"));
            }
        }
        if weights.iter().any(|&(target, _)| target as usize >= targets) {
            return Err(OpError::invalid(format!("a leaf weight is for a target outside the {targets}")));
        }
        if leaves.iter().any(|leaf| leaf.start > leaf.end || leaf.end as usize > weights.len()) {
            return Err(OpError::invalid("a leaf's weights do not exist"));
        }
        let features = branches.iter().map(|branch| branch.feature as usize + 1).max().unwrap_or(0);
        let uniform = branches.iter().all(|branch| branch.test == Test::LessOrEqual && !branch.nan_is_yes);
        Ok(Forest { branches, leaves, weights, roots, members, features, uniform })
    }

    /// Features a row must have at least.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Number of trees.
    pub fn trees(&self) -> usize {
        self.roots.len()
    }

    /// Calls `body(target, weight)` for every weight of the leaf that `row` reaches in each tree.
    pub fn visit(&self, row: &[T], mut body: impl FnMut(usize, T)) {
        for &root in &self.roots {
            let mut at = root;
            let leaf = loop {
                match at {
                    Target::Leaf(leaf) => break leaf,
                    Target::Node(node) => {
                        let branch = &self.branches[node as usize];
                        let x = row[branch.feature as usize];
                        let yes = if self.uniform { x <= branch.threshold } else { self.test(branch, x) };
                        at = if yes { branch.yes } else { branch.no };
                    }
                }
            };
            let leaf = self.leaves[leaf as usize];
            for &(target, weight) in &self.weights[leaf.start as usize..leaf.end as usize] {
                body(target as usize, weight);
            }
        }
    }

    fn test(&self, branch: &Branch<T>, x: T) -> bool {
        let threshold = branch.threshold;
        let holds = match branch.test {
            Test::LessOrEqual => x <= threshold,
            Test::Less => x < threshold,
            Test::GreaterOrEqual => x >= threshold,
            Test::Greater => x > threshold,
            Test::Equal => x == threshold,
            Test::NotEqual => x != threshold,
            Test::Member => self.members[branch.member as usize].contains(&x),
        };
        holds || branch.nan_is_yes && x.is_nan()
    }
}
