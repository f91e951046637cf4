//! Edits keep names, uses, order and bodies in step.

use std::sync::Arc;

use tenon_runtime::dtype::DType;
use tenon_runtime::graph::{Body, Graph, Node, Opsets, TypeInfo, ValueId};
use tenon_runtime::tensor::Tensor;

fn op(name: &str) -> Node {
    Node::new("", name, 17).with_name(name)
}

fn empty() -> Graph {
    Graph::new("g", Arc::new(Opsets::from([("".into(), 17)])))
}

/// x -> Neg -> a -> Abs -> b -> Exp -> y
fn chain() -> (Graph, [ValueId; 4]) {
    let mut g = empty();
    let x = g.add_input("x", Some(TypeInfo::unranked(DType::F32))).unwrap();
    let (_, a) = g.append(op("Neg"), &[Some(x)], 1).unwrap();
    let (_, b) = g.append(op("Abs"), &[Some(a[0])], 1).unwrap();
    let (_, y) = g.append(op("Exp"), &[Some(b[0])], 1).unwrap();
    g.add_output("y", y[0], None);
    g.check().unwrap();
    (g, [x, a[0], b[0], y[0]])
}

/// Every use is listed where it is, and nowhere else.
fn assert_uses_are_right(g: &Graph) {
    let mut expected = 0;
    for n in g.node_ids() {
        for v in g.node(n).reads() {
            assert!(g.consumers(v).any(|c| c == n));
            expected += 1;
        }
        for (slot, v) in g.node(n).outputs().iter().enumerate() {
            if let Some(v) = v {
                assert_eq!(g.producer(*v), Some((n, slot)));
            }
        }
    }
    assert_eq!(g.value_ids().map(|v| g.value(v).uses().len()).sum::<usize>(), expected);
}

#[test]
fn bypassing_a_node_and_removing_it() {
    let (mut g, [_, a, b, _]) = chain();
    g.replace_all_uses(b, a);
    let abs = g.producer(b).unwrap().0;
    let removed = g.remove_node(abs);
    assert_eq!(&*removed.op_type, "Abs");
    assert!(g.get_value(b).is_none(), "an output that nothing reads goes with its node");
    g.check().unwrap();
    assert_uses_are_right(&g);
    assert_eq!(g.topological_order().unwrap().len(), 2);
}

#[test]
fn an_output_keeps_its_name_when_its_value_changes() {
    let (mut g, [_, a, _, y]) = chain();
    g.replace_all_uses(y, a);
    assert_eq!((&*g.outputs()[0].name, g.outputs()[0].value), ("y", a));
    let exp = g.producer(y).unwrap().0;
    g.remove_node(exp);
    g.check().unwrap();
}

#[test]
fn removing_a_producer_that_is_read_is_found_by_check() {
    let (mut g, [_, a, ..]) = chain();
    let neg = g.producer(a).unwrap().0;
    g.remove_node(neg);
    let e = g.check().unwrap_err();
    assert_eq!(e.node_path(), ["Abs"]);
}

#[test]
fn folding_detaches_the_producer() {
    let (mut g, [_, a, ..]) = chain();
    let neg = g.producer(a).unwrap().0;
    g.make_constant(a, Tensor::scalar(1f32)).unwrap();
    assert!(g.producer(a).is_none() && g.constant(a).is_some());
    assert_eq!(g.node(neg).output(0), None);
    g.remove_node(neg);
    g.check().unwrap();
    assert_uses_are_right(&g);
}

#[test]
fn a_cycle_made_by_an_edit_is_found_and_can_be_undone() {
    let (mut g, [_, a, b, y]) = chain();
    let abs = g.producer(b).unwrap().0;
    g.set_input(abs, 0, Some(y));
    assert!(g.topological_order().unwrap_err().message().contains("cycle"));
    g.set_input(abs, 0, Some(a));
    g.check().unwrap();
    assert_uses_are_right(&g);
}

#[test]
fn nodes_inserted_late_come_where_they_belong() {
    let (mut g, [x, a, b, _]) = chain();
    let (_, extra) = g.append(op("Sin"), &[Some(x)], 1).unwrap();
    let abs = g.producer(b).unwrap().0;
    g.set_input(abs, 2, Some(extra[0]));
    assert_eq!(g.node(abs).inputs(), [Some(a), None, Some(extra[0])]);
    let order: Vec<&str> = g.topological_order().unwrap().iter().map(|n| &*g.node(*n).op_type).collect();
    assert_eq!(order, ["Neg", "Sin", "Abs", "Exp"]);
    g.truncate_inputs(abs, 1);
    assert!(g.is_unused(extra[0]));
    assert_uses_are_right(&g);
}

#[test]
fn a_value_has_one_source() {
    let (mut g, [x, a, ..]) = chain();
    let c = g.add_constant("c", Tensor::scalar(1i64));
    for taken in [x, a, c] {
        assert!(g.add_node(op("Sin"), &[Some(x)], &[Some(taken)]).is_err());
    }
    let fresh = g.add_value("fresh", None);
    assert!(g.add_node(op("Split"), &[Some(x)], &[Some(fresh), Some(fresh)]).is_err());
    assert!(g.make_constant(x, Tensor::scalar(1f32)).is_err());
    assert!(g.remove_value(a).is_err());
    assert!(g.remove_input(x).is_err());
    assert_eq!(g.node_count(), 3);
    assert_uses_are_right(&g);
}

#[test]
fn names_stay_unique() {
    let (mut g, [x, a, ..]) = chain();
    let other = g.add_value("x", None);
    assert_ne!(g.value(other).name(), "x");
    assert!(g.add_input("x", None).is_err());
    assert!(g.rename_value(a, "x").is_err());
    g.rename_value(a, "hidden").unwrap();
    assert_eq!((g.find_value("hidden"), g.find_value("x")), (Some(a), Some(x)));
}

fn with_body() -> (Graph, ValueId, ValueId, tenon_runtime::graph::NodeId) {
    let (mut g, [x, a, ..]) = chain();
    let mut inner = empty();
    let formal = inner.add_input("i", None).unwrap();
    let (first, second) = (inner.add_input("x", None).unwrap(), inner.add_input("a", None).unwrap());
    let (_, sum) = inner.append(op("Sum"), &[Some(formal), Some(first), Some(second)], 1).unwrap();
    inner.add_output("sum", sum[0], None);
    let node = op("Loop").with_body(Body::new("body", inner, vec![x, a]));
    let (id, _) = g.append(node, &[], 1).unwrap();
    g.check().unwrap();
    (g, x, a, id)
}

#[test]
fn captures_are_uses_and_dependencies() {
    let (mut g, x, a, id) = with_body();
    assert!(g.consumers(a).any(|n| n == id));
    let neg = g.producer(a).unwrap().0;
    let order = g.topological_order().unwrap();
    let place = |n| order.iter().position(|o| *o == n).unwrap();
    assert!(place(neg) < place(id));
    g.replace_all_uses(a, x);
    assert_eq!(g.node(id).bodies()[0].captures(), [x, x]);
    assert_uses_are_right(&g);
}

#[test]
fn captures_come_and_go() {
    let (mut g, x, a, id) = with_body();
    g.capture_to_constant(id, 0, 0, Tensor::scalar(2f32));
    let body = &g.node(id).bodies()[0];
    assert_eq!((body.captures(), body.formal_inputs().len(), body.capture_inputs().len()), (&[a][..], 1, 1));
    g.check().unwrap();
    assert_uses_are_right(&g);
    assert!(g.remove_capture(id, 0, 0).is_err(), "the body still reads it");
    let inner = g.add_capture(id, 0, x);
    assert_eq!(g.node(id).bodies()[0].capture_inputs()[1], inner);
    g.remove_capture(id, 0, 1).unwrap();
    assert_eq!(g.node(id).bodies()[0].captures(), [a]);
    assert_uses_are_right(&g);
    g.check().unwrap();
}

#[test]
fn removing_many_readers_of_one_value_is_quick() {
    let mut g = empty();
    let x = g.add_input("x", None).unwrap();
    let c = g.add_constant("c", Tensor::scalar(1f32));
    let mut v = x;
    for _ in 0..50_000 {
        v = g.append(op("Add"), &[Some(v), Some(c)], 1).unwrap().1[0];
    }
    let order = g.topological_order().unwrap().to_vec();
    let start = std::time::Instant::now();
    for n in order {
        g.remove_node(n);
    }
    assert!(start.elapsed().as_secs() < 5);
    assert!(g.is_unused(c) && g.node_count() == 0);
}
