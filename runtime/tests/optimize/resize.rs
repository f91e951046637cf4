//! Resize with sizes that follow from shapes.

use super::*;

/// Resizes `from` to the batch and channels it has and to these rows and columns.
fn resized(g: &mut Graph, from: &str, rows_and_columns: ValueId, attributes: Attributes<'_>) -> ValueId {
    let x = input(g, "x", from);
    let shape = op(g, "Shape", &[x], &[]);
    let (begin, end) = (ints(g, &[0]), ints(g, &[2]));
    let kept = op(g, "Slice", &[shape, begin, end], &[]);
    let sizes = op(g, "Concat", &[kept, rows_and_columns], &[("axis", 0.into())]);
    let mut node = Node::new("", "Resize", g.opset("").unwrap()).with_name("Resize");
    for (name, value) in attributes {
        node.attributes.set(*name, value.clone());
    }
    let y = g.append(node, &[Some(x), None, None, Some(sizes)], 1).unwrap().1[0];
    g.add_output("y", y, None);
    y
}

/// The one Resize of `g`, and its constant input `index`.
fn constant_of(g: &Graph, index: usize) -> (&Node, Vec<f64>) {
    let node = only(g);
    let constant = node.input(index).and_then(|value| g.constant(value));
    (node, constant.unwrap().to_f64_vec().unwrap())
}

#[test]
fn an_exact_quotient_of_known_sizes_becomes_a_scale() {
    let mut g = graph(13);
    let target = ints(&mut g, &[224, 8]);
    let y = resized(&mut g, "n,c,16,16", target, &[]);
    optimize(&mut g);
    let (node, scales) = constant_of(&g, 2);
    assert_eq!((node.input(3), scales), (None, vec![1.0, 1.0, 14.0, 0.5]));
    assert_eq!(g.value(y).ty().unwrap().shape().unwrap().to_string(), dims("n,c,224,8").to_string());
}

#[test]
fn another_quotient_becomes_a_size_of_its_axis_where_the_version_has_axes() {
    let mut g = graph(18);
    let target = ints(&mut g, &[10, 7]);
    resized(&mut g, "n,c,16,w", target, &[]);
    optimize(&mut g);
    let (node, sizes) = constant_of(&g, 3);
    assert_eq!((node.attributes.ints("axes").unwrap().unwrap(), sizes), (&[2, 3][..], vec![10.0, 7.0]));
    assert_eq!(node.input(2), None);
}

#[test]
fn what_scales_cannot_say_is_left_alone() {
    let fired = |version: i64, from: &str, target: &[i64], attributes: Attributes<'_>| {
        let mut g = graph(version);
        let target = ints(&mut g, target);
        resized(&mut g, from, target, attributes);
        reason(&optimize(&mut g), "static Resize")
    };
    assert!(fired(13, "n,c,16,w", &[32, 7], &[]).contains("before version 18"));
    assert!(fired(13, "n,c,3,3", &[7, 3], &[]).contains("before version 18"));
    let policy = [("keep_aspect_ratio_policy", "not_larger".into())];
    assert!(fired(18, "n,c,16,16", &[32, 32], &policy).contains("aspect ratio"));
}

#[test]
fn a_size_of_the_run_stays() {
    let mut g = graph(18);
    let target = g.add_input("target", Some(TypeInfo::tensor(DType::I64, dims("2")))).unwrap();
    resized(&mut g, "n,c,16,16", target, &[]);
    let reports = optimize(&mut g);
    assert!(reason(&reports, "static Resize").contains("not known before the run"));
}
