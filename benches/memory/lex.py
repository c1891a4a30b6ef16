"""Stop words, BM25, FTS5: the lexical building blocks."""
import math, os, sqlite3, sys
from collections import Counter, defaultdict
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "embedding", "recipe"))
from analyse import fold
STOP_EN = set("""a an the and or but if then than so as of at by for with from to in on into onto over under up down out off about between is am are was were be been being
it its this that these those there here he she his her him they them their we our us you your i me my do does did doing done have has had having can could may might
must shall should will would not no nor only own same such too very just what which who whom whose when where why how all any each few more most other some one""".split())
STOP_ES = set(fold("""el la los las lo un una unos unas y e o u pero si no ni de del al a ante con contra desde en entre hacia hasta para por según sin sobre tras que qué quien quién
quienes cual cuál cuales cuáles como cómo cuando cuándo cuanto cuánto cuanta cuántos cuántas donde dónde es son era eran fue fueron ser está están estar estaba hay ha han he había
haber se me te le les nos os su sus mi mis tu tus este esta estos estas ese esa esos esas aquel aquella esto eso aquello ya muy más menos también solo porque pues cada otro otra otros otras
lo todo toda todos todas algo nada hace hacer tiene tienen debe deben puede pueden""").split())
STOP = STOP_EN | STOP_ES


class BM25:
    def __init__(self, docs, k1=1.2, b=0.75):
        self.k1, self.b = k1, b; self.N = len(docs); self.tf = [Counter(d) for d in docs]; self.len = [len(d) for d in docs]
        self.avg = sum(self.len)/self.N; self.post = defaultdict(list)
        for i, t in enumerate(self.tf):
            for w, c in t.items(): self.post[w].append((i, c))
    def idf(self, w): n = len(self.post.get(w, ())); return math.log(1 + (self.N - n + .5)/(n + .5))
    def scores(self, q):
        S = defaultdict(float)
        for w, f in (q.items() if isinstance(q, dict) else Counter(q).items()):
            for i, c in self.post.get(w, ()):
                S[i] += f*self.idf(w)*c*(self.k1+1)/(c + self.k1*(1-self.b+self.b*self.len[i]/self.avg))
        return S
def fts5(docs, tokenizer="unicode61 remove_diacritics 2"):
    db = sqlite3.connect(":memory:")
    db.execute(f"CREATE VIRTUAL TABLE f USING fts5(t, tokenize=\"{tokenizer}\")")
    db.executemany("INSERT INTO f(rowid,t) VALUES(?,?)", list(enumerate(docs)))
    return lambda q: {r: -s for r, s in db.execute("SELECT rowid, bm25(f) FROM f WHERE f MATCH ?", (q,))} if q else {}
