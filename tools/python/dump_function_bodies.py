"""Writes the function bodies of the ONNX standard's operators as a model file of functions.

Each function is named after its operator; its overload is the operator set version that introduced the definition. A
definition whose body is absent or depends on the node's types is a function without nodes, so that an older body is not
taken for it. Run with the `onnx` package installed:

    python tools/python/dump_function_bodies.py [--check] [--list]
"""

import argparse
import pathlib
import sys

import onnx
from onnx import defs

TARGET = pathlib.Path(__file__).parents[2] / "runtime/src/graph/standard_functions.onnx"


def body_of(schema: defs.OpSchema) -> onnx.FunctionProto:
    """The newest static body of one definition, with the schema's attribute defaults; without nodes if there is none."""
    function = onnx.FunctionProto()
    if schema.has_function:
        function.ParseFromString(schema.get_function_with_opset_version(max(schema.function_opset_versions)))
    function.name, function.domain, function.overload = schema.name, schema.domain, str(schema.since_version)
    function.ClearField("doc_string")
    for name in list(function.attribute):
        default = schema.attributes[name].default_value
        if default.type != onnx.AttributeProto.UNDEFINED:
            function.attribute.remove(name)
            function.attribute_proto.append(default)
    for attribute in function.attribute_proto:
        attribute.ClearField("doc_string")
    return function


def standard_functions() -> onnx.ModelProto:
    schemas = sorted(defs.get_all_schemas_with_history(), key=lambda s: (s.domain, s.name, s.since_version))
    named = {(s.domain, s.name) for s in schemas if s.has_function}
    model = onnx.ModelProto(ir_version=onnx.IR_VERSION, producer_name=f"onnx {onnx.__version__}")
    model.functions.extend(body_of(s) for s in schemas if (s.domain, s.name) in named)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when the file is stale")
    parser.add_argument("--list", action="store_true", help="list the definitions whose body is not static")
    args = parser.parse_args()
    if args.list:
        for schema in defs.get_all_schemas_with_history():
            if schema.has_context_dependent_function and not schema.has_function:
                print(schema.domain or "ai.onnx", schema.name, schema.since_version)
        return
    contents = standard_functions().SerializeToString(deterministic=True)
    if args.check:
        sys.exit(0 if TARGET.read_bytes() == contents else f"{TARGET} is stale; run {sys.argv[0]}")
    TARGET.write_bytes(contents)
    print(f"wrote {TARGET}: {len(contents)} bytes")


if __name__ == "__main__":
    main()
