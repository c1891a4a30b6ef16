"""Text -> words -> stems, the one analysis that the lexical index and the embedding share. The Rust code does the same."""
import re, unicodedata
from functools import lru_cache
import snowballstemmer
WORD = re.compile(r"[^\W_]+", re.U)
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
EN, ES = snowballstemmer.stemmer("english"), snowballstemmer.stemmer("spanish")

def fold(s):
    s = unicodedata.normalize("NFKD", s.lower())
    return unicodedata.normalize("NFKC", "".join(c for c in s if not unicodedata.combining(c))).replace("ß", "ss")

def words(s):
    """runs of letters and digits, folded"""
    return [w for w, _ in parted(s)]

def parted(s):
    """[(word, parts)]: parts are the folded pieces of a camelCase word (PostgreSQL: postgre, sql), else empty"""
    out = []
    for run in WORD.findall(unicodedata.normalize("NFKC", s)):
        pieces = CAMEL.split(run)
        for w in WORD.findall(fold(run)):      # folding may break a run, rarely
            out.append((w, [fold(p) for p in pieces] if len(pieces) > 1 else []))
    return out

@lru_cache(None)
def stem(w):
    """Snowball English, then Snowball Spanish; a word with a digit stays as it is"""
    return w if any(c.isdigit() for c in w) else ES.stemWord(EN.stemWord(w))
