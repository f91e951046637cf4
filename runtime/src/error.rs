//! The error of every stage: what went wrong, in which stage, at which node, and what to change.

use std::fmt;
use std::path::Path;

/// The result of every fallible function of the runtime.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is; callers branch on this, people read the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system could not read or write a file.
    Io,
    /// The model breaks a rule of the ONNX standard.
    InvalidModel,
    /// The model is valid but uses something that this build does not have.
    Unsupported,
    /// A value given to the model has the wrong name, type or shape.
    InvalidInput,
    /// A size or depth exceeds a limit of the options.
    Limit,
    /// A provider reported a failure.
    Provider,
    /// The caller cancelled the run.
    Cancelled,
    /// A rule of the runtime itself is broken; always a bug.
    Internal,
}

/// The pipeline stage in which an [`Error`] arose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    Load,
    Graph,
    Shape,
    Optimize,
    Partition,
    Plan,
    Execute,
    Session,
}

impl Stage {
    /// The stage's name as a user reads it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Load => "loading the model",
            Stage::Graph => "building the graph",
            Stage::Shape => "inferring shapes",
            Stage::Optimize => "optimising the graph",
            Stage::Partition => "assigning nodes to providers",
            Stage::Plan => "planning the run",
            Stage::Execute => "running the model",
            Stage::Session => "preparing the session",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A failure: a kind, one clear sentence, the stage, and the path of node names from the outermost graph inwards.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    stage: Option<Stage>,
    path: Vec<String>,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` whose message names the value, what was expected and what to change.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, stage: None, path: Vec::new(), message: message.into(), source: None }))
    }

    /// A file operation failed: `action` is a verb such as "open" or "write".
    pub fn io(action: &str, path: &Path, source: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, format!("cannot {action} {}: {source}", path.display())).with_source(source)
    }

    /// [`ErrorKind::InvalidModel`].
    pub fn invalid_model(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidModel, message)
    }

    /// [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// [`ErrorKind::InvalidInput`].
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// [`ErrorKind::Limit`].
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// [`ErrorKind::Provider`].
    pub fn provider(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Provider, message)
    }

    /// [`ErrorKind::Cancelled`].
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Cancelled, message)
    }

    /// [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Sets the stage unless an inner stage is already recorded.
    pub fn at_stage(mut self, stage: Stage) -> Self {
        self.0.stage.get_or_insert(stage);
        self
    }

    /// Adds an enclosing node in front of the node path.
    pub fn in_node(mut self, name: impl Into<String>) -> Self {
        self.0.path.insert(0, name.into());
        self
    }

    /// Keeps the underlying error for [`std::error::Error::source`].
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stage in which it arose, if it passed through one.
    pub fn stage(&self) -> Option<Stage> {
        self.0.stage
    }

    /// Node names from the outermost graph inwards; empty when the failure belongs to no node.
    pub fn node_path(&self) -> &[String] {
        &self.0.path
    }

    /// The sentence without stage and node path.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stage) = self.0.stage {
            write!(f, "while {stage}: ")?;
        }
        for name in &self.0.path {
            write!(f, "node '{name}': ")?;
        }
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

/// Adds stage and node to the error of a result.
pub trait ResultExt<T> {
    /// See [`Error::at_stage`].
    fn at_stage(self, stage: Stage) -> Result<T>;
    /// See [`Error::in_node`]; `name` is called only on failure.
    fn in_node<N: Into<String>>(self, name: impl FnOnce() -> N) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn at_stage(self, stage: Stage) -> Result<T> {
        self.map_err(|e| e.at_stage(stage))
    }

    fn in_node<N: Into<String>>(self, name: impl FnOnce() -> N) -> Result<T> {
        self.map_err(|e| e.in_node(name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_stage_then_nodes_then_message() {
        let e = Error::invalid_model("input 'x' is missing").in_node("inner").in_node("outer");
        let e = e.at_stage(Stage::Graph).at_stage(Stage::Session);
        assert_eq!(
            e.to_string(),
            "while building the graph: node 'outer': node 'inner': input 'x' is missing"
        );
        assert_eq!(e.kind(), ErrorKind::InvalidModel);
        assert_eq!(e.stage(), Some(Stage::Graph));
        assert_eq!(e.node_path(), ["outer", "inner"]);
    }

    #[test]
    fn an_error_is_one_pointer_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
