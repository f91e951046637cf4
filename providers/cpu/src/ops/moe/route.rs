//! Which experts each token goes to, and with what weight.

/// Tokens of one expert with their weights.
#[derive(Clone, Default)]
pub struct Assigned {
    pub tokens: Vec<usize>,
    pub weights: Vec<f32>,
}

/// Picks the `k` most likely experts of every token from its logits. The weights are the softmax of the logits, or the
/// values of `mixing` at the picked experts; where `normalize`, a token's weights add up to one.
pub fn route(
    logits: &[f32],
    mixing: Option<&[f32]>,
    experts: usize,
    k: usize,
    normalize: bool,
) -> Vec<Assigned> {
    let mut assigned = vec![Assigned::default(); experts];
    let mut order: Vec<usize> = Vec::with_capacity(experts);
    for (token, logits) in logits.chunks_exact(experts.max(1)).enumerate() {
        order.clear();
        order.extend(0..experts);
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        order.truncate(k);
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = logits.iter().map(|&logit| (logit - largest).exp()).sum();
        let weight = |expert: usize| match mixing {
            Some(mixing) => mixing[token * experts + expert],
            None => (logits[expert] - largest).exp() / sum,
        };
        let total: f32 = order.iter().map(|&expert| weight(expert)).sum();
        for &expert in &order {
            let weight = weight(expert);
            assigned[expert].tokens.push(token);
            assigned[expert].weights.push(if normalize && total != 0.0 { weight / total } else { weight });
        }
    }
    assigned
}
