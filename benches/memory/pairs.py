"""near duplicates: Jaccard of stems, equal numbers, cosine"""
import json, re; from evaluate import *
m = Model(HERE + "/../../embedding/baton-embed.bin")
NEG = {"no", "not", "never", "nunca", "sin", "without", "jamas", "longer", "ya"}
for l in open(HERE + "/pairs.jsonl", encoding="utf-8"):
    p = json.loads(l); wa, wb = words(p["a"]), words(p["b"])
    A, B = set(Lexical.tokens(p["a"])), set(Lexical.tokens(p["b"])); j = len(A & B)/len(A | B)
    num = {w for w in wa if any(c.isdigit() for c in w)} == {w for w in wb if any(c.isdigit() for c in w)}
    neg = {w for w in wa if w in NEG} == {w for w in wb if w in NEG}
    print(f"{p['label']:10} jaccard {j:.2f} cosine {float(m.vector(p['a']) @ m.vector(p['b'])):.2f} numbers {'same' if num else 'DIFFER'} negation {'same' if neg else 'DIFFER'}  {p['b'][:60]}")
