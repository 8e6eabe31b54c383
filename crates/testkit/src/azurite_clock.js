// Loaded before Azurite (node --require): its clock stands where the file KEYTURN_CLOCK says, in milliseconds since
// 1970-01-01T00:00:00Z, until a test writes another time there.
"use strict";
const fs = require("fs");
const Real = Date;
const now = () => Number(fs.readFileSync(process.env.KEYTURN_CLOCK, "utf8"));
global.Date = class Date extends Real {
    constructor(...given) {
        if (given.length === 0) {
            super(now());
        } else {
            super(...given);
        }
    }
    static now() {
        return now();
    }
};
