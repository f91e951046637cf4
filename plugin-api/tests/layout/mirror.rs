//! The mirror's side of the comparison: its layout and constants as lines, and its members' types as text.

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};
use tenon_plugin_api::{DType, ffi};

/// Lines `struct size` and `struct.member offset size`; the pattern fails to compile when a member is not listed.
macro_rules! describe {
    ($lines:ident, $($c:literal $type:ident { $($member:ident),* $(,)? })*) => {$(
        $lines.push(format!("{} {}", $c, size_of::<ffi::$type>()));
        $($lines.push(format!(
            "{}.{} {} {}", $c, stringify!($member), offset_of!(ffi::$type, $member),
            size_behind(|s: &ffi::$type| &s.$member),
        ));)*
        let _all_members_are_listed = |s: &ffi::$type| {
            let ffi::$type { $($member: _),* } = s;
        };
    )*};
}

fn size_behind<S, M>(_member: fn(&S) -> &M) -> usize {
    size_of::<M>()
}

pub fn layout() -> Vec<String> {
    let mut lines = Vec::new();
    describe! { lines,
        "tenon_str" Str { data, len }
        "tenon_tensor" Tensor { data, bytes, dims, rank, dtype, memory, reserved }
        "tenon_cost" Cost { time_ns, flops, bytes }
        "tenon_option" KeyValue { struct_size, key, value }
        "tenon_status" Status { struct_size, code, provider_code, message, release }
        "tenon_host_api" HostApi { struct_size, abi_major, abi_minor, name, version, log, log_enabled }
        "tenon_device_info" DeviceInfo {
            struct_size, index, kind, name, arch, chip, pci, memory_bytes, memory_gb_per_s, peak_f32_tflops,
            peak_bf16_tflops, peak_int8_tops, shares_host_memory, compute_units,
        }
        "tenon_open_args" OpenArgs { struct_size, index, option_count, options }
        "tenon_memory_info" MemoryInfo { struct_size, total_bytes, free_bytes, used_bytes, peak_bytes }
        "tenon_copy" Copy { dst, src, bytes, dst_memory, src_memory, dst_device, src_device }
        "tenon_value" Value { struct_size, name, dtype, rank, dims, dim_symbols, constant }
        "tenon_attribute" Attribute { struct_size, name, kind, f, i, s, tensor, count, ints, floats, strings }
        "tenon_node" Node {
            struct_size, name, domain, op_type, version, input_count, inputs, output_count, attribute_count, outputs,
            attributes,
        }
        "tenon_graph" Graph {
            struct_size, value_count, values, node_count, nodes, input_count, inputs, output_count, outputs,
        }
        "tenon_claim_sink" ClaimSink { struct_size, context, claim, decline }
        "tenon_attention_caps" AttentionCaps {
            struct_size, layouts, max_head_size, head_size_step, grouped_query, sliding_window, attention_sink,
            softcap, additive_bias, query_dtypes, kv_dtypes, page_tokens,
        }
        "tenon_compile_args" CompileArgs {
            struct_size, graph, target, constants_stay, specialize, option_count, reserved, options,
        }
        "tenon_byte_sink" ByteSink { struct_size, context, write }
        "tenon_run_args" RunArgs {
            struct_size, stream, inputs, input_count, workspace, workspace_bytes, context, allocate_output,
        }
        "tenon_kv_pool_args" KvPoolArgs {
            struct_size, layers, kv_heads, head_size, page_tokens, pages, dtype, reserved,
        }
        "tenon_sample_args" SampleArgs {
            struct_size, stream, logits, logits_dtype, batch, vocabulary, reserved, temperatures, top_k, top_p, min_p,
            seeds, tokens, log_probs,
        }
        "tenon_timeline_entry" TimelineEntry {
            struct_size, symbol, node, op_type, parameters, start_ns, duration_ns, stream, flops, bytes,
        }
        "tenon_timeline_sink" TimelineSink { struct_size, context, entry }
        "tenon_provider_api" ProviderApi {
            struct_size, abi_major, abi_minor, name, vendor, version, build_info, initialize, score,
            enumerate_devices, open_device, close_device, memory_info, allocate, free, allocate_ordered, free_ordered,
            copy, stream_create, stream_wrap, stream_destroy, stream_synchronize, event_create, event_destroy,
            event_record, event_wait, event_query, event_synchronize, capture_begin, capture_end, recording_launch,
            recording_destroy, claim, attention_caps, compile, executable_destroy, executable_serialize,
            executable_deserialize, executable_released, workspace_bytes, run, kv_pool_create, kv_pool_destroy,
            kv_pool_data, kv_pool_copy_pages, sample, group_create, group_destroy, all_reduce, all_gather,
            timeline_start, timeline_stop, extension,
        }
    }
    lines
}

/// Every constant under its name in the header.
pub fn constants() -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    macro_rules! list {
        ($($name:ident)*) => { $(all.insert(concat!("TENON_", stringify!($name)).to_string(), ffi::$name as u64);)* };
    }
    list! {
        ABI_MAJOR ABI_MINOR NO_VALUE
        MEMORY_HOST MEMORY_PINNED MEMORY_DEVICE
        CODE_INVALID_ARGUMENT CODE_UNSUPPORTED CODE_OUT_OF_MEMORY CODE_DEVICE_LOST CODE_NOT_FOUND CODE_CANCELLED
        CODE_INTERNAL CODE_NOT_READY
        LOG_ERROR LOG_WARN LOG_INFO LOG_DEBUG LOG_TRACE
        DEVICE_CPU DEVICE_GPU DEVICE_NPU DEVICE_OTHER
        ATTRIBUTE_INT ATTRIBUTE_FLOAT ATTRIBUTE_STRING ATTRIBUTE_TENSOR ATTRIBUTE_INTS ATTRIBUTE_FLOATS
        ATTRIBUTE_STRINGS
        ATTENTION_CONTIGUOUS ATTENTION_PAGED
        REDUCE_SUM REDUCE_MAX REDUCE_MIN REDUCE_AVERAGE
    }
    for dtype in [DType::Undefined].into_iter().chain(DType::ALL) {
        all.insert(format!("TENON_DTYPE_{}", format!("{dtype:?}").to_uppercase()), dtype as u64);
    }
    all
}

/// Members of the struct `name` in the mirror's source: name and type, argument names left out.
pub fn members(source: &str, name: &str) -> Vec<(String, String)> {
    let start = source
        .find(&format!("pub struct {name} {{"))
        .unwrap_or_else(|| panic!("src/ffi has no struct {name}"));
    let body = &source[start..];
    let body = &body[body.find('{').expect("a struct has a body") + 1..];
    let body = &body[..body.find("\n}").expect("a struct ends")];
    let code: String =
        body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join(" ");
    let code = code.split_whitespace().collect::<Vec<_>>().join(" ");
    code.split("pub ").skip(1).map(member).collect()
}

fn member(text: &str) -> (String, String) {
    let (name, text) = text.trim().trim_end_matches(',').split_once(": ").expect("a name and a type");
    let Some((before, rest)) = text.split_once("fn(") else { return (name.into(), text.into()) };
    let (arguments, after) = rest.split_once(')').expect("the arguments end");
    let arguments: Vec<&str> = arguments
        .split(',')
        .map(|argument| argument.split_once(": ").map_or(argument, |(_, kind)| kind).trim())
        .filter(|argument| !argument.is_empty())
        .collect();
    let before = before.replace("Option< ", "Option<");
    (name.into(), format!("{before}fn({}){}", arguments.join(", "), after.trim_end_matches([',', ' '])))
}
