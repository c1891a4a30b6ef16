import json, os, numpy as np
from collections import defaultdict
D = os.path.dirname(os.path.abspath(__file__))
M = [json.loads(l) for l in open(D + "/memories.jsonl", encoding="utf-8")]
Q = [json.loads(l) for l in open(D + "/queries.jsonl", encoding="utf-8")]
IDS = [m["id"] for m in M]; POS = {x: i for i, x in enumerate(IDS)}
KINDS = ["paraphrase", "synonym", "typo", "negation", "cross", "exact"]
def measure(rankings, k=10):
    R = defaultdict(list)
    for q, top in zip(Q, rankings):
        rel = {POS[x] for x in q["relevant"]}; top = list(top)[:k]
        rec = len(rel & set(top))/len(rel); rr = next((1/(i+1) for i, x in enumerate(top) if x in rel), 0.0)
        for key in ("all", q["lang"], q["kind"], "odd" if int(q["id"][1:]) % 2 else "even"): R[key].append((rec, rr))
    return {k: (float(np.mean([a for a, _ in v])), float(np.mean([b for _, b in v])), len(v)) for k, v in R.items()}
def line(name, r, keys=("all", "odd", "even", "en", "es", *KINDS)):
    print(f"{name:38}" + " ".join(f"{k[:5]} {r[k][0]:.3f}/{r[k][1]:.3f}" for k in keys), flush=True)
def ranked(S):   # dict -> list, best first, ties by position
    return [i for i, _ in sorted(S.items(), key=lambda t: (-t[1], t[0]))]
def rrf(lists, k=60, w=None, depth=100):
    S = defaultdict(float)
    for j, l in enumerate(lists):
        for r, i in enumerate(l[:depth]): S[i] += (w[j] if w else 1.0)/(k + r + 1)
    return ranked(S)
