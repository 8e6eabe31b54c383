-- What is done once in a while, by whichever process takes its turn, and what came of it last.
CREATE TABLE chores (
    name     text   NOT NULL PRIMARY KEY,
    due      bigint NOT NULL,
    reported bigint,
    report   text
);
