-- Which process does what only one may do at a time, and until when (steady clock).
CREATE TABLE workers (
    worker TEXT   NOT NULL,
    holder TEXT   NOT NULL,
    until  BIGINT NOT NULL,
    PRIMARY KEY (worker)
);
