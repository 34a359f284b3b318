# Trains the vocabulary of sentencepiece.json and asks SentencePiece itself for the encodings:
#   pip install sentencepiece && python make_sentencepiece.py TEXT > sentencepiece.json
import json
import random
import sys
import tempfile

import sentencepiece as spm

text, prefix = sys.argv[1], tempfile.mkdtemp() + '/sp'
spm.SentencePieceTrainer.train(
    input=text, model_prefix=prefix,
    vocab_size=600, model_type='bpe', byte_fallback=True, normalization_rule_name='identity',
    remove_extra_whitespaces=False, add_dummy_prefix=True, split_digits=True,
    allow_whitespace_only_pieces=True, input_sentence_size=4000, shuffle_input_sentence=False,
    character_coverage=0.98, max_sentence_length=4192,
    unk_id=0, bos_id=1, eos_id=2)
sp=spm.SentencePieceProcessor(model_file=prefix + '.model')
pieces, scores, types = [], [], []
for i in range(sp.get_piece_size()):
    pieces.append(sp.id_to_piece(i))
    scores.append(sp.get_score(i))
    types.append(2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 5 if sp.is_unused(i) else 1)
random.seed(7)
v=open(text,encoding='utf-8').read()
texts=["","a"," ","  ","   "," a","  a","a ","a  ","a  b","a   b","a    b     c","\t","\t\ta\tb","\n","\n\n\n","a\nb\r\nc","    four\n        eight","Hello, world!","hello world","12345 67890 3.14","naïve café — “quotes” … ß","日本語のテキスト","Привет, мир","emoji 🦀🚀👩‍👩‍👧 flags 🇩🇪","🦀","🦀🦀 🦀","\u00a0\u200b\ufeff","fn main() {\n    println!(\"{}\", 1_000u64);\n}\n","aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","ababababab"," "*37,"x"+" "*37+"y","▁","a▁b","▁▁ a","\x00","\x01\x7f","the the the","  leading","trailing   ","<0x41>","e\u0301","ﬁ ①","한국어 문서","\U0010ffff","the"*30]
while len(texts)<64:
    o=random.randrange(len(v))
    texts.append(v[o:o+random.randrange(5,180)])
cases=[{"text":t,"ids":sp.encode(t),"decoded":sp.decode(sp.encode(t))} for t in texts]
json.dump({"pieces":pieces,"scores":scores,"types":types,"cases":cases},sys.stdout,ensure_ascii=False,separators=(',',':'))
