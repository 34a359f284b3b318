# Makes quantized.safetensors and quantized.json: one layer of a small Llama model in every quantized form that Strata reads, and the
# SHA-256 of the values of each matrix in F32, rows of query and key heads in GGUF's order:
#   pip install torch safetensors compressed-tensors bitsandbytes && python make_quantized.py
#
# What the values are is written here once more, in numpy, from the definitions, and where a library can be asked it is asked, too:
#   FP8: torch's own conversion to float32, times the scale (transformers, integrations/fbgemm_fp8.py, finegrained_fp8.py)
#   compressed-tensors: its own pack_to_int32 and decompress, and (q - zero) * scale
#   bitsandbytes: its own quantize_4bit and its default dequantization, and code[q] * absmax; INT8: q * SCB / 127
#   AWQ: AutoAWQ, awq/modules/linear/gemm.py and utils/packing_utils.py: (q - zero) * scale, eight outputs a word, order 0 2 4 6 1 3 5 7
#   GPTQ: AutoGPTQ, nn_modules/qlinear: (q - (zero + 1 & mask)) * scale, version 2 of GPTQModel without the 1; a stream of bits along inputs
import hashlib
import json

import bitsandbytes.functional as bnb
import numpy as np
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import save_file

HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM = 64, 96, 4, 2, 16
SHAPES = {
    'self_attn.q_proj': (64, 64), 'self_attn.k_proj': (32, 64), 'self_attn.v_proj': (32, 64), 'self_attn.o_proj': (64, 64),
    'mlp.gate_proj': (96, 64), 'mlp.up_proj': (96, 64), 'mlp.down_proj': (64, 96),
}
NAMES = dict(zip(SHAPES, ['attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down']))
rng = np.random.default_rng(18)
tensors, cases = {}, {}


def t(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def case(name, config, make, lossy=False, plain=(), hf_quant_config=None):
    """`make(weight, name)` gives the tensors behind the module's name and the values."""
    values = {}
    for module, (rows, cols) in SHAPES.items():
        w = (rng.standard_normal((rows, cols)) * 0.04).astype(np.float32)
        if module in plain:
            stored = torch.from_numpy(w).to(torch.bfloat16)
            parts, value = {'.weight': stored}, stored.float().numpy()
        else:
            parts, value = make(w, module)
        assert value.dtype == np.float32 and value.shape == (rows, cols)
        for end, part in parts.items():
            tensors[f'{name}/model.layers.0.{module}{end}'] = part.contiguous()
        if module in ('self_attn.q_proj', 'self_attn.k_proj'):
            value = value.reshape(-1, 2, HEAD_DIM // 2, cols).swapaxes(1, 2).reshape(rows, cols)
        value = np.ascontiguousarray(value)
        values[f'blk.0.{NAMES[module]}.weight'] = {'sha256': hashlib.sha256(value.tobytes()).hexdigest(), 'first': [float(x) for x in value.flat[:4]]}
    cases[name] = {'quantization_config': config, 'lossy': lossy, 'values': values}
    if hf_quant_config:
        cases[name]['hf_quant_config'] = hf_quant_config


# FP8

def fp8(w, block, dtype=torch.float8_e4m3fn, scale_dtype=torch.float32):
    rows, cols = w.shape
    h, b = block
    down, across = -(-rows // h), -(-cols // b)
    scale = np.zeros((down, across), np.float32)
    for i in range(down):
        for j in range(across):
            scale[i, j] = np.abs(w[i * h:(i + 1) * h, j * b:(j + 1) * b]).max() / torch.finfo(dtype).max
    if scale_dtype == torch.float8_e8m0fnu:
        stored = t(np.round(np.log2(scale)).astype(np.int32) + 127).to(torch.uint8).view(scale_dtype)
    else:
        stored = t(scale).to(scale_dtype)
    wide = np.repeat(np.repeat(stored.float().numpy(), h, 0), b, 1)[:rows, :cols]
    codes = t(w / wide).to(dtype)
    return codes, stored, (codes.float().numpy() * wide).astype(np.float32)


def of_fp8(block, suffix, shape=None, extra=(), **kw):
    def make(w, module):
        size = {'row': (1, w.shape[1]), 'whole': w.shape}.get(block, block)
        codes, scale, value = fp8(w, size, **kw)
        parts = {'.weight': codes, suffix: scale if shape is None else scale.reshape(shape)}
        return parts | {end: torch.tensor(1.5) for end in extra}, value
    return make


def compressed(weights, format, **more):
    return {'quant_method': 'compressed-tensors', 'format': format, 'quantization_status': 'compressed', 'ignore': ['lm_head'],
            'kv_cache_scheme': None, 'config_groups': {'group_0': {'targets': ['Linear'], 'weights': weights, 'input_activations': None, 'output_activations': None}}} | more


FLOAT = {'num_bits': 8, 'type': 'float', 'symmetric': True, 'dynamic': False, 'group_size': None, 'block_structure': None, 'actorder': None}
case('fbgemm', {'quant_method': 'fbgemm_fp8', 'activation_scale_ub': 1200.0, 'modules_to_not_convert': ['v_proj', 'down_proj']},
     of_fp8('row', '.weight_scale', extra=['.input_scale_ub']), plain=('self_attn.v_proj', 'mlp.down_proj'))
case('fp8_blocks', {'quant_method': 'fp8', 'fmt': 'e4m3', 'activation_scheme': 'dynamic', 'weight_block_size': [24, 40]},
     of_fp8((24, 40), '.weight_scale_inv'))
case('fp8_blocks_e8m0', {'quant_method': 'fp8', 'scale_fmt': 'ue8m0', 'weight_block_size': [32, 32]},
     of_fp8((32, 32), '.weight_scale_inv', scale_dtype=torch.float8_e8m0fnu))
case('fp8_matrix', {'quant_method': 'fp8', 'activation_scheme': 'static', 'weight_block_size': None},
     of_fp8('whole', '.weight_scale_inv', (), ['.activation_scale']))
case('fp8_e5m2', {'quant_method': 'fp8', 'fmt': 'e5m2', 'activation_scheme': 'static', 'ignored_layers': ['lm_head']},
     of_fp8('whole', '.weight_scale', (1,), ['.input_scale'], dtype=torch.float8_e5m2))
case('modelopt', {'quant_method': 'modelopt', 'quant_algo': 'FP8', 'kv_cache_scheme': {'type': 'float'}},
     of_fp8('whole', '.weight_scale', (), ['.input_scale', '.k_scale']))
case('modelopt_beside', None, of_fp8('row', '.weight_scale', (-1,)),
     hf_quant_config={'producer': {'name': 'modelopt'}, 'quantization': {'quant_algo': 'FP8_PER_CHANNEL_PER_TOKEN', 'exclude_modules': ['lm_head']}})
case('ct_fp8_tensor', compressed(FLOAT | {'strategy': 'tensor'}, 'naive-quantized'), of_fp8('whole', '.weight_scale', (1,), ['.input_scale']))
case('ct_fp8_channel', compressed(FLOAT | {'strategy': 'channel'}, 'float-quantized'), of_fp8('row', '.weight_scale', scale_dtype=torch.bfloat16))
case('ct_fp8_block', compressed(FLOAT | {'strategy': 'block', 'block_structure': [48, 24]}, 'float-quantized'), of_fp8((48, 24), '.weight_scale'))
case('ct_fp8_group', compressed(FLOAT | {'strategy': 'group', 'group_size': 32}, 'float-quantized'), of_fp8((1, 32), '.weight_scale', scale_dtype=torch.float16))
case('cast', None, lambda w, _: ({'.weight': (c := t(w).to(torch.float8_e4m3fn))}, c.float().numpy()))
case('cast_e5m2', None, lambda w, _: ({'.weight': (c := t(w).to(torch.float8_e5m2))}, c.float().numpy()))

# Whole numbers: `levels` from 0 to 2^bits - 1, zero points of the same kind, groups of `size` columns


def integers(w, bits, size, symmetric, scale_dtype=np.float16):
    rows, cols = w.shape
    groups = w.reshape(rows, cols // size, size)
    low, high = groups.min(2), groups.max(2)
    top = 2 ** bits - 1
    if symmetric:
        scale = np.maximum(np.abs(low), np.abs(high)) * 2 / top
        zero = np.full_like(low, 2 ** (bits - 1))
    else:
        scale = (high - low) / top
        zero = np.clip(np.round(-low / scale), 0, top)
    scale = scale.astype(scale_dtype)
    levels = np.clip(np.round(groups / scale.astype(np.float32)[:, :, None]) + zero[:, :, None], 0, top)
    value = (levels - zero[:, :, None]).astype(np.float32) * scale.astype(np.float32)[:, :, None]
    return levels.reshape(rows, cols).astype(np.int64), zero.astype(np.int64), scale, value.reshape(rows, cols).astype(np.float32)


def stream(values, bits):
    """A stream of bits along axis 0, in words of 32 bits, the lowest first."""
    n, others = values.shape
    out = [[0] * others for _ in range(-(-n * bits // 32))]
    for i in range(n):
        for j in range(others):
            at, word = divmod(i * bits, 32)
            wide = int(values[i, j]) << word
            out[at][j] |= wide & 0xffffffff
            if wide >> 32:
                out[at + 1][j] |= wide >> 32
    return np.array(out, np.uint32).view(np.int32)


def gptq(bits, size, symmetric, version=1, act_order=False):
    def make(w, module):
        rows, cols = w.shape
        order = rng.permutation(cols) if act_order else np.arange(cols)
        g = size if size > 0 else cols
        levels, zero, scale, value = integers(w[:, order], bits, g, symmetric)
        back = np.argsort(order)
        levels, value = levels[:, back], value[:, back]
        stored = (zero - 1) % 2 ** bits if version == 1 else zero
        parts = {'.qweight': t(stream(levels.T, bits)), '.qzeros': t(stream(stored, bits).T), '.scales': t(scale.T), '.g_idx': t((back // g).astype(np.int32))}
        return parts, value
    return make


def gptq_config(bits, size, **more):
    return {'quant_method': 'gptq', 'bits': bits, 'group_size': size, 'desc_act': False, 'sym': True, 'damp_percent': 0.01, 'true_sequential': True} | more


def awq(size):
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def pack(values):
        out = np.zeros((values.shape[0], values.shape[1] // 8), np.int64)
        for i, o in enumerate(order):
            out |= values[:, o::8] << 4 * i
        return t(out.astype(np.uint32).view(np.int32))

    def make(w, module):
        levels, zero, scale, value = integers(w, 4, size if size > 0 else w.shape[1], False)
        return {'.qweight': pack(levels.T), '.qzeros': pack(zero.T), '.scales': t(scale.T)}, value
    return make


def compressed_integers(bits, size, symmetric, packed, g_idx=False):
    """Compared with what compressed-tensors itself makes of it, in float64 to see no rounding of its own."""
    def make(w, module):
        rows, cols = w.shape
        order = rng.permutation(cols) if g_idx else np.arange(cols)
        g = size or cols
        levels, zero, scale, value = integers(w[:, order], bits, g, symmetric)
        back = np.argsort(order)
        levels, value = levels[:, back], value[:, back]
        codes, zeros = t((levels - 2 ** (bits - 1)).astype(np.int8)), t((zero - 2 ** (bits - 1)).astype(np.int8))
        parts = {'.weight_scale': t(scale)}
        if packed:
            parts |= {'.weight_packed': pack_to_int32(codes, bits), '.weight_shape': torch.tensor([rows, cols])}
        else:
            parts['.weight'] = codes
        if not symmetric:
            parts['.weight_zero_point'] = pack_to_int32(zeros, bits, packed_dim=0) if packed else zeros
        if g_idx:
            parts['.weight_g_idx'] = t((back // g).astype(np.int32))
        else:
            args = QuantizationArgs(num_bits=bits, symmetric=symmetric, strategy='group' if size else 'channel', group_size=size)
            theirs = dequantize(codes, t(scale).double(), None if symmetric else zeros, args, torch.float64)
            assert np.array_equal(theirs.float().numpy(), value), (bits, size, symmetric)
        return parts, value
    return make


def whole(bits, size, **more):
    return {'num_bits': bits, 'type': 'int', 'symmetric': True, 'dynamic': False, 'group_size': size, 'strategy': 'group' if size else 'channel'} | more


case('gptq4', gptq_config(4, 32), gptq(4, 32, True), True)
case('gptq4_zeros', gptq_config(4, 16, sym=False, checkpoint_format='gptq'), gptq(4, 16, False), True)
case('gptq4_act_order', gptq_config(4, 32, desc_act=True, sym=False), gptq(4, 32, False, act_order=True), True)
case('gptq4_v2', gptq_config(4, 32, sym=False, checkpoint_format='gptq_v2'), gptq(4, 32, False, version=2), True)
case('gptq8', gptq_config(8, -1), gptq(8, -1, False), True)
case('gptq3', gptq_config(3, 32), gptq(3, 32, False), True)
case('gptq2', gptq_config(2, 16), gptq(2, 16, False), True, plain=('self_attn.v_proj',))
case('awq', {'quant_method': 'awq', 'version': 'gemm', 'bits': 4, 'group_size': 32, 'zero_point': True, 'modules_to_not_convert': None}, awq(32), True)
case('awq_columns', {'quant_method': 'awq', 'version': 'gemm', 'bits': 4, 'group_size': -1, 'zero_point': True, 'modules_to_not_convert': ['v_proj']},
     awq(-1), True, plain=('self_attn.v_proj',))
case('ct_int4', compressed(whole(4, 32), 'pack-quantized'), compressed_integers(4, 32, True, True), True)
case('ct_int4_zeros', compressed(whole(4, 16, symmetric=False), 'pack-quantized'), compressed_integers(4, 16, False, True), True)
case('ct_int4_act_order', compressed(whole(4, 32, actorder='group'), 'pack-quantized'), compressed_integers(4, 32, True, True, g_idx=True), True)
case('ct_int8_packed', compressed(whole(8, None), 'pack-quantized'), compressed_integers(8, None, True, True), True)
case('ct_int3', compressed(whole(3, 32), 'pack-quantized'), compressed_integers(3, 32, True, True), True)
case('ct_int8', compressed(whole(8, None), 'int-quantized'), compressed_integers(8, None, True, False), True)
case('ct_int8_zeros', compressed(whole(8, None, symmetric=False), 'int-quantized'), compressed_integers(8, None, False, False), True)

# bitsandbytes


def bnb4(kind, nested, size=64):
    def make(w, module):
        packed, state = bnb.quantize_4bit(t(w), blocksize=size, compress_statistics=nested, quant_type=kind)
        absmax = state.absmax
        if nested:
            s = state.state2
            wide = s.absmax.numpy().repeat(s.blocksize)[:absmax.numel()]
            absmax = t(s.code.numpy()[absmax.numpy()] * wide + state.offset.numpy())
        flat = packed.flatten().numpy()
        codes = np.stack([flat >> 4, flat & 15], 1).reshape(-1)
        value = (state.code.numpy()[codes] * absmax.numpy().repeat(size)[:codes.size]).reshape(w.shape)
        # Not dequantize_4bit: its kernel for CPUs takes no block that begins in one row and ends in the next, as those for GPUs do.
        theirs = _dequantize_4bit_compute(packed.reshape(-1), absmax, state.code, size, w.shape, torch.float32).numpy()
        assert np.array_equal(theirs, value), (kind, nested)
        return {'.weight': packed} | {'.weight.' + end: part for end, part in state.as_dict(packed=True).items()}, value.astype(np.float32)
    return make


def bnb8(w, module):
    scb = np.abs(w).max(1).astype(np.float32)
    codes = t(np.round(w * (127 / scb[:, None])).astype(np.int8))
    value = bnb.int8_vectorwise_dequant(codes, t(scb)).numpy()
    assert np.array_equal(value, codes.numpy().astype(np.float32) * scb[:, None] * np.float32(1 / 127))
    return {'.weight': codes, '.SCB': t(scb), '.weight_format': torch.tensor(0, dtype=torch.uint8)}, value


def bits_and_bytes(**more):
    return {'quant_method': 'bitsandbytes', 'bnb_4bit_compute_dtype': 'bfloat16', 'llm_int8_threshold': 6.0, 'llm_int8_skip_modules': None} | more


case('nf4', bits_and_bytes(load_in_4bit=True, bnb_4bit_quant_type='nf4'), bnb4('nf4', False), True, plain=('self_attn.v_proj',))
case('nf4_double', bits_and_bytes(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True), bnb4('nf4', True), True)
case('fp4', bits_and_bytes(load_in_4bit=True, bnb_4bit_quant_type='fp4'), bnb4('fp4', False, 128), True)
case('bnb_int8', bits_and_bytes(load_in_8bit=True), bnb8, True)

save_file(tensors, 'quantized.safetensors')
json.dump(cases, open('quantized.json', 'w'), indent=1)
print(len(cases), 'cases')
