#!/usr/bin/env python3
"""recall@10 / MRR of lexical, vector and hybrid search on the set beside it, with ../../embedding/baton-embed.bin.
   python3 evaluate.py [--model FILE] [--sweep]"""
import argparse, math, os, struct, sys, sqlite3
from collections import Counter, defaultdict
import numpy as np
HERE = os.path.dirname(os.path.abspath(__file__)); sys.path[:0] = [HERE, HERE + "/../../embedding/recipe"]
from analyse import words, parted, stem, fold
from metrics import M, Q, measure, ranked, rrf, KINDS
from lex import STOP, BM25, fts5

class Model:
    def __init__(self, path):
        b = open(path, "rb").read(); magic, n, self.dim, size, _ = struct.unpack_from("<8sIIII", b); assert magic == b"BATNEMB1"
        at = 24; names = b[at:at+size].split(b"\0")[:n]; self.row = {s.decode(): i for i, s in enumerate(names)}; self.stem = {}
        for w, i in self.row.items(): self.stem.setdefault(stem(w), i)      # commonest first
        at += size + (-(24 + size) % 4); self.scale = np.frombuffer(b, "<f4", n, at); at += 4*n
        p = np.frombuffer(b, np.uint8, n*self.dim//2, at).reshape(n, -1)
        E = np.empty((n, self.dim), np.float32); E[:, 0::2] = (p & 15); E[:, 1::2] = (p >> 4)
        self.E = (E - 8)*self.scale[:, None]
    def rows(self, text):
        for w, parts in parted(text):
            j = self.one(w)
            if j is not None: yield j, 1.0; continue
            found = [j for j in map(self.one, parts) if j is not None]
            if found: yield from ((j, 1.0) for j in found); continue
            if not any(c.isdigit() for c in w):
                for n in range(len(w) - 1, 3, -1):
                    j = self.row.get(w[:n])
                    if j is not None: yield j, .7; break
    def one(self, w):
        j = self.row.get(w); return self.stem.get(stem(w)) if j is None else j
    def vector(self, text):
        v = np.zeros(self.dim, np.float32)
        for j, f in self.rows(text): v += f*self.E[j]
        n = float(np.sqrt((v*v).sum())); return v/n if n > 0 else v
    def matrix(self, texts): return np.stack([self.vector(t) for t in texts])

def osa(a, b, limit):
    """optimal string alignment distance, or limit+1"""
    if abs(len(a) - len(b)) > limit: return limit + 1
    before, row = None, list(range(len(b) + 1))
    for i in range(1, len(a) + 1):
        new = [i] + [0]*len(b)
        for j in range(1, len(b) + 1):
            new[j] = min(row[j] + 1, new[j-1] + 1, row[j-1] + (a[i-1] != b[j-1]))
            if i > 1 and j > 1 and a[i-1] == b[j-2] and a[i-2] == b[j-1]: new[j] = min(new[j], before[j-2] + 1)
        if min(new) > limit: return limit + 1
        before, row = row, new
    return row[-1]

class Lexical:
    """tokens as they are stored in the one normalised column, and the query's weighted terms"""
    def __init__(self, docs):
        self.docs = [self.tokens(d) for d in docs]; self.bm = BM25(self.docs, 1.2, .5)
        self.vocabulary = Counter(w for d in docs for w in {x for w, parts in parted(d) for x in (w, *parts)} if w not in STOP)
        self.stems = set(map(stem, self.vocabulary))
    @staticmethod
    def tokens(text):
        ws = [x for w, parts in parted(text) for x in (w, *parts)]; return [stem(w) for w in ([w for w in ws if w not in STOP] or ws)]
    def corrected(self, w):
        if len(w) < 5 or any(c.isdigit() for c in w): return []
        limit = 2 if len(w) >= 8 else 1
        near = sorted((d, -self.vocabulary[v], v) for v in self.vocabulary if v[0] == w[0] and abs(len(v) - len(w)) <= limit for d in [osa(w, v, limit)] if d <= limit)
        return [v for d, _, v in near if d == near[0][0]][:3]
    def terms(self, query, fix=True):
        ws = parted(query); out = {}
        for w, parts in [x for x in ws if x[0] not in STOP] or ws:
            s = stem(w); out[s] = 1.0
            if s in self.bm.post: continue
            # unknown to the tenant: its parts or its neighbours stand in for it; with none it stays, and lowers every coverage
            better = [(stem(v), 1.0) for v in parts if stem(v) in self.bm.post] or [(stem(v), .7) for v in (self.corrected(w) if fix else [])]
            if better: del out[s]
            for v, f in better: out.setdefault(v, f)
        return out
    def search(self, query, fix=True):
        """[(doc, score, coverage)] best first; coverage = share of the query's idf mass that the document has"""
        t = self.terms(query, fix); S = self.bm.scores(t)
        mass = sum(f*self.bm.idf(w) for w, f in t.items()) or 1
        return [(i, S[i], sum(f*self.bm.idf(w) for w, f in t.items() if w in self.bm.tf[i])/mass) for i in ranked(S)]

K, WEIGHT, GAMMA, DEPTH = 10, .7, 2, 100
def fuse(lex, vec, k=K, weight=WEIGHT, gamma=GAMMA, depth=DEPTH, boost=None):
    F = defaultdict(float)
    for r, (i, _, c) in enumerate(lex[:depth]): F[i] += c**gamma/(k + r + 1)
    for r, (i, c) in enumerate(vec[:depth]): F[i] += weight*max(c, 0)/(k + r + 1)
    if boost: F = {i: v*boost(i) for i, v in F.items()}
    return ranked(F)

COLS = ["all", "en", "es", *KINDS]
def row(name, rankings):
    r = measure(rankings); print(f"| {name} | " + " | ".join(f"{r[c][0]:.2f} / {r[c][1]:.2f}" for c in COLS) + " |", flush=True); return r

def main():
    a = argparse.ArgumentParser(); a.add_argument("--model", default=HERE + "/../../embedding/baton-embed.bin"); a.add_argument("--sweep", action="store_true"); a = a.parse_args()
    docs, queries = [m["content"] for m in M], [q["query"] for q in Q]
    r = measure([[] for _ in Q]); print("| recall@10 / MRR | " + " | ".join(f"{c} ({r[c][2]})" for c in COLS) + " |\n|---" * 1 + "|---"*len(COLS) + "|")
    quoted = lambda ws: " OR ".join(f'"{w}"' for w in dict.fromkeys(ws))
    for name, tok in (("FTS5 unicode61, any word", "unicode61 remove_diacritics 2"), ("FTS5 porter, any word", "porter unicode61 remove_diacritics 2")):
        f = fts5(docs, tok); row(name, [ranked(f(quoted(words(q)))) for q in queries])
        row(name + ", no stop words", [ranked(f(quoted([w for w in words(q) if w not in STOP] or words(q)))) for q in queries])
    f = fts5([fold(d) for d in docs], "trigram"); row("FTS5 trigram", [ranked(f(quoted([w[i:i+3] for w in words(q) if w not in STOP for i in range(len(w) - 2)]))) for q in queries])
    L = Lexical(docs)
    f = fts5([" ".join(d) for d in L.docs]); row("A: our stems in FTS5, bm25()", [ranked(f(quoted(L.terms(q, False)))) for q in queries])
    row("A: our stems, BM25 k1 1.2 b 0.5", [[i for i, _, _ in L.search(q, False)] for q in queries])
    lex = [L.search(q) for q in queries]; row("B: A + unknown words corrected", [[i for i, _, _ in l] for l in lex])
    m = Model(a.model); S = m.matrix(queries) @ m.matrix(docs).T
    vec = [[(int(i), float(s[i])) for i in np.argsort(-s, kind="stable")] for s in S]; row("C: vectors", [[i for i, _ in v] for v in vec])
    for k in (60, 10): row(f"B + C, plain RRF k {k}", [rrf([[i for i, _, _ in l], [i for i, _ in v]], k) for l, v in zip(lex, vec)])
    row("**B + C, weighted RRF**", [fuse(l, v) for l, v in zip(lex, vec)])
    nofix = [L.search(q, False) for q in queries]; row("A + C, weighted RRF", [fuse(l, v) for l, v in zip(nofix, vec)])
    prior = lambda i: 1 + .05*M[i]["importance"] + .05*2**(-M[i]["age_days"]/30)
    row("the same with importance and recency", [fuse(l, v, boost=prior) for l, v in zip(lex, vec)])
    if a.sweep:
        best = []
        for k in (3, 5, 10, 20, 30, 60):
            for w in (.5, .7, 1, 1.5):
                for g in (0, 1, 1.5, 2, 3):
                    r = measure([fuse(l, v, k, w, g) for l, v in zip(lex, vec)]); best.append((sum(r["odd"][:2]), k, w, g, r))
        best.sort(key=lambda t: -t[0])
        for _, k, w, g, r in best[:12]: print(k, w, g, "odd %.3f/%.3f even %.3f/%.3f" % (*r["odd"][:2], *r["even"][:2]))
if __name__ == "__main__": main()
