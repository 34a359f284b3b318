# Writes one tiny model in every form that PyTorch, Hugging Face and Meta have for it, and the tokens of texts by sentencepiece and tiktoken:
#   pip install torch transformers safetensors sentencepiece tiktoken && python make_torch.py valid.txt torch
# tests/torch_files.rs and tests/tokenizer_model.rs read the results.
import base64
import collections
import json
import os
import random
import struct
import sys
import tempfile

import sentencepiece as spm
import tiktoken
import torch
from safetensors.torch import save_file
from tiktoken._educational import bpe_train
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

text_file, out = sys.argv[1], sys.argv[2]
corpus = open(text_file, encoding='utf-8').read()
DIM, LAYERS, HEADS, KV_HEADS, FFN, MULTIPLE = 32, 2, 4, 2, 96, 16
HEAD = DIM // HEADS


def path(*parts):
    p = os.path.join(out, *parts)
    os.makedirs(os.path.dirname(p), exist_ok=True)
    return p


def write(p, value):
    json.dump(value, open(p, 'w', encoding='utf-8'), ensure_ascii=False, separators=(',', ':'))


# Meta's names and order of rows.
def without_paths(model):
    """The model without the files that it was trained from and to, fields 1 and 2 of trainer_spec (field 2): they are those of one machine."""
    def fields(message):
        at = 0
        def varint():
            nonlocal at
            value = shift = 0
            while True:
                byte = message[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value
        while at < len(message):
            start = at
            key = varint()
            if key & 7 == 2:
                n = varint()
                at += n
                yield key >> 3, message[start:at], message[at - n:at]
            else:
                at = {0: lambda: (varint(), at)[1], 1: lambda: at + 8, 5: lambda: at + 4}[key & 7]()
                yield key >> 3, message[start:at], None

    def length(n):
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + length(n >> 7)

    parts = []
    for number, whole, inner in fields(model):
        if number == 2:
            spec = b''.join(field for n, field, _ in fields(inner) if n not in (1, 2))
            whole = bytes([2 << 3 | 2]) + length(len(spec)) + spec
        parts.append(whole)
    return b''.join(parts)


def meta(vocab, seed):
    torch.manual_seed(seed)
    r = lambda *shape: (torch.randn(*shape) / 8).to(torch.bfloat16)
    w = {'tok_embeddings.weight': r(vocab, DIM), 'norm.weight': 1 + r(DIM), 'output.weight': r(vocab, DIM)}
    for i in range(LAYERS):
        p = 'layers.%d.' % i
        w |= {p + 'attention.wq.weight': r(DIM, DIM), p + 'attention.wk.weight': r(KV_HEADS * HEAD, DIM),
              p + 'attention.wv.weight': r(KV_HEADS * HEAD, DIM), p + 'attention.wo.weight': r(DIM, DIM),
              p + 'feed_forward.w1.weight': r(FFN, DIM), p + 'feed_forward.w2.weight': r(DIM, FFN),
              p + 'feed_forward.w3.weight': r(FFN, DIM), p + 'attention_norm.weight': 1 + r(DIM), p + 'ffn_norm.weight': 1 + r(DIM)}
    return w


# As transformers' convert_llama_weights_to_hf.py names and permutes them.
def hugging_face(w):
    half = lambda m, heads: m.view(heads, m.shape[0] // heads // 2, 2, DIM).transpose(1, 2).reshape(m.shape).contiguous()
    h = {'model.embed_tokens.weight': w['tok_embeddings.weight'], 'model.norm.weight': w['norm.weight'], 'lm_head.weight': w['output.weight']}
    for i in range(LAYERS):
        p, q = 'layers.%d.' % i, 'model.layers.%d.' % i
        h |= {q + 'self_attn.q_proj.weight': half(w[p + 'attention.wq.weight'], HEADS), q + 'self_attn.k_proj.weight': half(w[p + 'attention.wk.weight'], KV_HEADS),
              q + 'self_attn.v_proj.weight': w[p + 'attention.wv.weight'], q + 'self_attn.o_proj.weight': w[p + 'attention.wo.weight'],
              q + 'mlp.gate_proj.weight': w[p + 'feed_forward.w1.weight'], q + 'mlp.down_proj.weight': w[p + 'feed_forward.w2.weight'],
              q + 'mlp.up_proj.weight': w[p + 'feed_forward.w3.weight'], q + 'input_layernorm.weight': w[p + 'attention_norm.weight'],
              q + 'post_attention_layernorm.weight': w[p + 'ffn_norm.weight']}
    return h


# As fairscale's layers split them: columns of wo and w2, rows of the others; norms whole in each part.
def split(w, parts, embeddings_by):
    def part(name, t, i):
        if 'norm' in name:
            return t.clone()
        dim = embeddings_by if 'tok_embeddings' in name else 1 if '.wo.' in name or '.w2.' in name else 0
        return t.chunk(parts, dim=dim)[i].clone()
    return [{name: part(name, t, i) for name, t in w.items()} for i in range(parts)]


def config(vocab, bos, eos, **more):
    return {'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', 'hidden_act': 'silu', 'hidden_size': DIM, 'intermediate_size': FFN,
            'num_hidden_layers': LAYERS, 'num_attention_heads': HEADS, 'num_key_value_heads': KV_HEADS, 'vocab_size': vocab, 'rms_norm_eps': 1e-5,
            'tie_word_embeddings': False, 'torch_dtype': 'bfloat16', 'bos_token_id': bos, 'eos_token_id': eos} | more


def params(vocab, **more):
    return {'dim': DIM, 'n_layers': LAYERS, 'n_heads': HEADS, 'n_kv_heads': KV_HEADS, 'vocab_size': vocab, 'multiple_of': MULTIPLE, 'norm_eps': 1e-5} | more


random.seed(7)
texts = ['', 'a', ' ', '  ', '   ', ' a', '  a', 'a ', 'a  b', '\t\ta\tb', '\n\n\n', 'a\nb\r\nc', '    four\n        eight', 'Hello, world!', "I'll we've IT'S",
         '12345 67890 3.14', 'naïve café — “quotes” … ß', '日本語のテキスト', 'Привет, мир', 'emoji 🦀🚀👩‍👩‍👧 🇩🇪', '\u00a0\u200b\ufeff', 'aaaaaaaaaaaaaaaaaaaaaaaa',
         ' ' * 37, 'x' + ' ' * 37 + 'y', '▁', 'a▁b', '\x00', '\x01\x7f', '  leading', 'trailing   ', '<0x41>', 'e\u0301', '\U0010ffff', 'the' * 30]
while len(texts) < 60:
    o = random.randrange(len(corpus))
    texts.append(corpus[o:o + random.randrange(5, 180)])

# Llama 2: SentencePiece.
prefix = tempfile.mkdtemp() + '/sp'
spm.SentencePieceTrainer.train(
    input=text_file, model_prefix=prefix, vocab_size=420, model_type='bpe', byte_fallback=True, normalization_rule_name='identity',
    remove_extra_whitespaces=False, add_dummy_prefix=True, split_digits=True, allow_whitespace_only_pieces=True, input_sentence_size=4000,
    shuffle_input_sentence=False, character_coverage=0.98, max_sentence_length=4192, unk_id=0, bos_id=1, eos_id=2)
sp_bytes = without_paths(open(prefix + '.model', 'rb').read())
open(path('llama2', 'tokenizer.model'), 'wb').write(sp_bytes)
sp = spm.SentencePieceProcessor(model_proto=sp_bytes)
VOCAB = sp.get_piece_size()
weights = meta(VOCAB, 1)
hf = hugging_face(weights)
save_file(hf, path('llama2', 'model.safetensors'))
write(path('llama2', 'config.json'), config(VOCAB, 1, 2, max_position_embeddings=4096, rope_theta=10000.0))
write(path('llama2', 'tokenizer_config.json'), {'tokenizer_class': 'LlamaTokenizer', 'add_bos_token': True, 'add_eos_token': False,
                                               'bos_token': '<s>', 'eos_token': '</s>', 'unk_token': '<unk>', 'legacy': True})
# tokenizer.json as transformers' LlamaConverter makes it of a SentencePiece model: all pairs that make a piece, by its score.
pieces = {sp.id_to_piece(i): i for i in range(VOCAB)}
merges = []
for piece, i in pieces.items():
    pairs = [(piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in pieces and piece[k:] in pieces]
    merges += [(sp.get_score(i), a, b) for a, b in sorted(pairs, key=lambda p: (pieces[p[0]], pieces[p[1]]))]
merges = [[a, b] for _, a, b in sorted(merges, key=lambda m: -m[0]) if sp.id_to_piece(pieces[a + b]) not in ('<unk>', '<s>', '</s>')]
special = lambda i, text: {'id': i, 'content': text, 'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False, 'special': True}
write(path('llama2', 'tokenizer.json'), {
    'version': '1.0', 'truncation': None, 'padding': None, 'added_tokens': [special(0, '<unk>'), special(1, '<s>'), special(2, '</s>')],
    'normalizer': {'type': 'Sequence', 'normalizers': [{'type': 'Prepend', 'prepend': '▁'}, {'type': 'Replace', 'pattern': {'String': ' '}, 'content': '▁'}]},
    'pre_tokenizer': None, 'post_processor': {'type': 'TemplateProcessing', 'single': [{'SpecialToken': {'id': '<s>', 'type_id': 0}}, {'Sequence': {'id': 'A', 'type_id': 0}}],
        'pair': [{'Sequence': {'id': 'A', 'type_id': 0}}, {'Sequence': {'id': 'B', 'type_id': 1}}], 'special_tokens': {'<s>': {'id': '<s>', 'ids': [1], 'tokens': ['<s>']}}},
    'decoder': {'type': 'Sequence', 'decoders': [{'type': 'Replace', 'pattern': {'String': '▁'}, 'content': ' '}, {'type': 'ByteFallback'}, {'type': 'Fuse'},
                                                 {'type': 'Strip', 'content': ' ', 'start': 1, 'stop': 0}]},
    'model': {'type': 'BPE', 'dropout': None, 'unk_token': '<unk>', 'continuing_subword_prefix': None, 'end_of_word_suffix': None, 'fuse_unk': True,
              'byte_fallback': True, 'ignore_merges': False, 'vocab': pieces, 'merges': merges}})

# The same weights by torch.save.
state = collections.OrderedDict((name, torch.nn.Parameter(t)) for name, t in hf.items())
state._metadata = collections.OrderedDict({'': {'version': 1}})
torch.save(state, path('llama2', 'pytorch_model.bin'))
# Storages that tensors share, with offsets, and a later protocol.
flat = torch.cat([t.flatten() for t in hf.values()])
views, at = {}, 0
for name, t in hf.items():
    views[name] = flat[at:at + t.numel()].view(t.shape)
    at += t.numel()
torch.save(views, path('forms', 'shared.bin'), pickle_protocol=4)
torch.save(state, path('forms', 'legacy.bin'), _use_new_zipfile_serialization=False)
names = list(hf)
halves = [{n: hf[n].clone() for n in names[:9]}, {n: hf[n].clone() for n in names[9:]}]
index = {'metadata': {'total_size': 2 * sum(t.numel() for t in hf.values())}, 'weight_map': {}}
for i, half in enumerate(halves):
    name = 'pytorch_model-%05d-of-00002.bin' % (i + 1)
    torch.save(half, path('sharded', name))
    index['weight_map'] |= {n: name for n in half}
write(path('sharded', 'pytorch_model.bin.index.json'), index)
spread = dict(hf) | {'lm_head.weight': hf['lm_head.weight'].t().contiguous().t()}
torch.save({'lm_head.weight': spread['lm_head.weight']}, path('forms', 'transposed.bin'))
torch.save({'model': {}, 'optimizer': 3}, path('forms', 'nested.bin'))
torch.save({'lm_head.weight': torch.zeros(2, 2, dtype=torch.int64)}, path('forms', 'integers.bin'))

# Meta's distribution of it, whole and in two parts.
write(path('meta2', 'params.json'), params(-1))
torch.save(weights | {'rope.freqs': torch.ones(HEAD // 2)}, path('meta2', 'whole.pth'))
for i, part in enumerate(split(weights, 2, 1)):
    torch.save(part, path('meta2', 'consolidated.%02d.pth' % i))

# Llama 3: tiktoken.
PATTERN = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
ranks = bpe_train(data=corpus[:30000], vocab_size=340, pat_str=PATTERN, visualise=None)
open(path('llama3', 'tokenizer.model'), 'wb').write(b''.join(base64.b64encode(t) + b' %d\n' % i for t, i in ranks.items()))
names = ['<|begin_of_text|>', '<|end_of_text|>', '<|reserved_special_token_0|>', '<|reserved_special_token_1|>', '<|finetune_right_pad_id|>',
         '<|reserved_special_token_2|>', '<|start_header_id|>', '<|end_header_id|>', '<|eom_id|>', '<|eot_id|>', '<|python_tag|>']
names += ['<|reserved_special_token_%d|>' % i for i in range(3, 248)]
encoding = tiktoken.Encoding(name='tiny', pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={n: len(ranks) + i for i, n in enumerate(names)})
VOCAB3 = len(ranks) + len(names)
weights3 = meta(VOCAB3, 3)
save_file(hugging_face(weights3), path('llama3', 'model.safetensors'))
write(path('llama3', 'config.json'), config(
    VOCAB3, len(ranks), len(ranks) + 1, max_position_embeddings=131072, rope_theta=500000.0, rope_scaling={
        'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0, 'original_max_position_embeddings': 8192}))
fast = TikTokenConverter(path('llama3', 'tokenizer.model'), extra_special_tokens=names).converted()
from tokenizers import processors
bos = names[0]
fast.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
    single=bos + ':0 $A:0', pair=bos + ':0 $A:0 ' + bos + ':1 $B:1', special_tokens=[(bos, len(ranks))])])
fast.save(path('llama3', 'tokenizer.json'))
t = json.load(open(path('llama3', 'tokenizer.json'), encoding='utf-8'))
write(path('llama3', 'tokenizer.json'), t)
write(path('llama3', 'tokenizer_config.json'), {'tokenizer_class': 'PreTrainedTokenizerFast', 'bos_token': bos, 'eos_token': '<|end_of_text|>'})
write(path('meta3', 'params.json'), params(VOCAB3, rope_theta=500000.0, use_scaled_rope=True))
for i, part in enumerate(split(weights3, 2, 0)):
    torch.save(part, path('meta3', 'consolidated.%02d.pth' % i))

write(path('tokens.json'), {'llama2': [{'text': t, 'ids': sp.encode(t)} for t in texts],
                            'llama3': [{'text': t, 'ids': encoding.encode(t, disallowed_special=())} for t in texts]})

# The first entries of the corpora of tests/fuzz: the weights of its checkpoint, and a vocabulary of 24 tokens in both forms.
corpus = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'fuzz', 'corpus')
entry = lambda *name: os.path.join(corpus, *name)
for folder in ('pytorch', 'tokenizer_model'):
    os.makedirs(entry(folder), exist_ok=True)
q = 'model.layers.0.'
shapes = {'model.embed_tokens': (24, 32), 'model.norm': (32,), q + 'input_layernorm': (32,), q + 'post_attention_layernorm': (32,),
          q + 'self_attn.q_proj': (32, 32), q + 'self_attn.k_proj': (16, 32), q + 'self_attn.v_proj': (16, 32), q + 'self_attn.o_proj': (32, 32),
          q + 'mlp.gate_proj': (32, 32), q + 'mlp.up_proj': (32, 32), q + 'mlp.down_proj': (32, 32)}
small = {name + '.weight': torch.full(shape, 0.125, dtype=torch.float16) for name, shape in shapes.items()}
torch.save(small, entry('pytorch', 'zip'))
torch.save(small, entry('pytorch', 'legacy'), _use_new_zipfile_serialization=False)
part = lambda number, b: bytes([number << 3 | 2, len(b)]) + b
token = lambda text, kind, score: part(1, part(1, text.encode()) + b'\x15' + struct.pack('<f', score) + bytes([24, kind]))
listed = [token('<unk>', 2, 0), token('<s>', 3, 0), token('</s>', 3, 0)] + [token(chr(97 + i), 1, -i) for i in range(20)] + [token('ab', 1, 0)]
open(entry('tokenizer_model', 'sentencepiece'), 'wb').write(b''.join(listed) + part(2, bytes([3 << 3, 2])) + part(3, bytes([4 << 3, 0])))
open(entry('tokenizer_model', 'tiktoken'), 'wb').write(
    b''.join(base64.b64encode(t.encode()) + b' %d\n' % i for i, t in enumerate([chr(97 + i) for i in range(19)] + ['ab'])))
