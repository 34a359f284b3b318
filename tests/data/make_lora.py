#!/usr/bin/env python3
"""Adapters for models/tiny-rustdoc as PEFT saves them, and rows of what PEFT merges: tests/data/lora/.

pip install torch transformers peft safetensors; python tests/data/make_lora.py   (made with peft 0.21.2)

* plain: rank and alpha by pattern, F32;  rs: rsLoRA in BF16, with a norm in modules_to_save, by torch.save;  embed: LoRA of the embedding.
* merged.safetensors: after plain and half of rs and -1.5 of embed, one after the other, rows ROWS of every changed tensor,
  NAME in F32 from the base in F32, NAME.bf16 from the base in BF16.
"""
import os, shutil
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
BASE, OUT = os.path.join(HERE, "../../models/tiny-rustdoc"), os.path.join(HERE, "lora")
ROWS = [0, 33, -1]
SCALES = {"plain": 1.0, "rs": 0.5, "embed": -1.5}
CONFIGS = {
    "plain": LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "o_proj", "down_proj"], layers_to_transform=[0, 1],
                        rank_pattern={"1.self_attn.q_proj": 2}, alpha_pattern={"down_proj": 3}),
    "rs": LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["v_proj", "gate_proj", "up_proj"], layers_to_transform=[0, 5],
                     modules_to_save=["norm"]),
    "embed": LoraConfig(r=2, lora_alpha=2, target_modules=["embed_tokens"]),
}


def base(dtype):
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=dtype)


def make(name):
    torch.manual_seed(len(name))
    model = get_peft_model(base(torch.float32), CONFIGS[name])
    for key, p in model.named_parameters():
        if p.requires_grad:
            p.data = p.data * (1 + 0.1 * torch.randn_like(p)) if "lora" not in key else 0.1 * torch.randn_like(p)
    if name == "rs":
        model = model.to(torch.bfloat16)
    folder = os.path.join(OUT, name)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, save_embedding_layers=False)
    os.remove(os.path.join(folder, "README.md"))
    if name == "rs":  # as PEFT once saved all of them
        file = os.path.join(folder, "adapter_model.safetensors")
        torch.save(load_file(file), os.path.join(folder, "adapter_model.bin"))
        os.remove(file)


def merged(dtype):
    model = base(dtype)
    for name, scale in SCALES.items():
        peft = PeftModel.from_pretrained(model, os.path.join(OUT, name))
        for module in peft.modules():
            if isinstance(getattr(module, "scaling", None), dict):
                module.scaling = {k: v * scale for k, v in module.scaling.items()}
        model = peft.merge_and_unload()
    return model.state_dict()


if __name__ == "__main__":
    for name in CONFIGS:
        make(name)
    before, rows = base(torch.float32).state_dict(), {}
    for dtype, end in [(torch.float32, ""), (torch.bfloat16, ".bf16")]:
        for key, after in merged(dtype).items():
            if key == "lm_head.weight" or torch.equal(after.float(), before[key].to(dtype).float()):
                continue
            rows[key + end] = after[ROWS].contiguous() if after.dim() == 2 else after
    save_file(rows, os.path.join(OUT, "merged.safetensors"))
    print({k: tuple(v.shape) for k, v in rows.items()})
    # plain.gguf and embed.gguf: llama.cpp's convert_lora_to_gguf.py --base models/tiny-rustdoc --outtype f32 tests/data/lora/NAME
