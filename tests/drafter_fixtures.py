"""A drafting head for a tiny student, as a published Qwen3.5 checkpoint brings one."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

LAST = "model.language_model.layers.2."  # the tiny model's last attention block


def add_head(folder, seed=0):
    """Give a saved tiny model (model.save) the weights mtp.*: its last block once more, over the
    hidden state with a little of the next embedding. Returns them.
    """
    file, config = Path(folder) / "model.safetensors", Path(folder) / "config.json"
    weights = load_file(file)
    d = weights[f"{LAST}input_layernorm.weight"].numel()
    block = {k.removeprefix(LAST): v for k, v in weights.items() if k.startswith(LAST)}
    head = {f"mtp.layers.0.{k}": v.clone() for k, v in block.items()}
    mix = 0.05 * torch.randn(d, 2 * d, generator=torch.Generator().manual_seed(seed))
    mix[:, d:] += torch.eye(d)  # (embedding, hidden state) -> hidden state
    head["mtp.fc.weight"] = mix
    for name in ("norm", "pre_fc_norm_hidden", "pre_fc_norm_embedding"):
        head[f"mtp.{name}.weight"] = torch.zeros(d)
    save_file(weights | head, file, metadata={"format": "pt"})
    facts = json.loads(config.read_text())
    facts["text_config"]["mtp_num_hidden_layers"] = 1
    config.write_text(json.dumps(facts))
    return head
