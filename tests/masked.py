"""The oracle of pruning: the whole prompt through every layer, with removed keys masked. Slow and obvious, no cache, no hooks.

A token removed before layer l is still computed on, but no later row may attend to it, so what it holds no longer
matters. Which tokens are removed is decided here once more, in plain Python, from eager attention weights. Works for
one row (batch size 1).
"""

import torch


@torch.inference_mode()
def masked_run(decoder, lm_head, embeds, cuts, n_new, position_embeddings):
    """Greedy decoding under per-layer masks.

    decoder: object with `.layers` and `.norm`; embeds [1, N, D]; cuts: layer -> tuple of Cut; position_embeddings(n)
    -> (cos, sin) of n positions. Returns (kept original positions per layer at prefill, logits [n_new, V], new ids).
    """
    n_prompt = embeds.shape[1]
    embed_tokens, ids, logits = decoder.embed_tokens, [], []
    kept = None
    for _ in range(n_new):
        n = embeds.shape[1]
        hidden, present, found = embeds, list(range(n_prompt)), []
        for index, layer in enumerate(decoder.layers):
            present = present if kept is None else kept[index]
            found.append(list(present))
            allowed = torch.zeros(n, dtype=torch.bool)
            allowed[present] = True
            allowed[n_prompt:] = True
            visible = torch.ones(n, n, dtype=torch.bool).tril() & allowed
            visible |= torch.eye(n, dtype=torch.bool)  # a removed row must see something, or its softmax is NaN
            mask = torch.zeros(n, n, dtype=embeds.dtype).masked_fill(~visible, torch.finfo(embeds.dtype).min)[None, None]
            weights = []
            handle = layer.self_attn.register_forward_hook(lambda module, args, output, out=weights: out.append(output[1]))
            hidden = layer(hidden, attention_mask=mask, position_embeddings=position_embeddings(n))
            handle.remove()
            if kept is None:
                present = _cut(present, cuts.get(index, ()), weights[0][0].mean(0)[-1])
        kept = kept or found
        row = lm_head(decoder.norm(hidden[:, -1]))[0]
        logits.append(row)
        ids.append(int(row.argmax()))
        embeds = torch.cat([embeds, embed_tokens(torch.tensor([[ids[-1]]]))], 1)
    return kept, torch.stack(logits), ids


def _cut(present, cuts, last_query):
    """Remove the n lowest (or highest) candidates; of equals the later one first."""
    for cut in cuts:
        score = last_query if cut.score is None else cut.score
        candidates = [p for p in present if cut.candidates[p]]
        sign = -1 if cut.remove == "high" else 1
        gone = set(sorted(candidates, key=lambda p: (sign * float(score[p]), -p))[: cut.n_removed])
        present = [p for p in present if p not in gone]
    return present
