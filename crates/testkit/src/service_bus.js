// Queues of Azure Service Bus as its AMQP guide describes them, in memory: a stand-in for tests, since no emulator can
// be had. The frames are those of rhea, a complete AMQP 1.0 library; Microsoft's own client judges the rest
// (`./test azure`). Strict: whoever has not put a token, or whose token has run out, gets no link; locks run out by the
// clock and stay when a connection breaks; what is not known is refused.
//
// Standard input takes one JSON object a line, and each is answered by one on standard output:
//   {"clock": MILLIS}                                    its clock stands there from now on
//   {"fault": {"op", "how", "times", "queue"?, "ms"?}}   the next `times` operations of this kind go wrong
//   {"calm": true}                                       nothing goes wrong any more
//   {"rights": ["Listen", "Send"]}                       what tokens are good for from now on
//   {"drop": true}                                       every connection breaks
//   {"look": "QUEUE"}                                    what is on it
// op: send, deliver, put-token, or an operation of $management without com.microsoft: ; how: busy, before (the
// connection breaks before anything happens), after (it happens, and the connection breaks before that is told), delay.
"use strict";
const crypto = require("crypto");
const fs = require("fs");
const readline = require("readline");
const rhea = require("rhea");
const types = rhea.types;

const settings = JSON.parse(process.env.KEYTURN_SERVICE_BUS);
const KEYS = { [settings.keyName]: settings.key };
const LARGEST = 262144;
const LOST = {
    code: 410,
    condition: "com.microsoft:message-lock-lost",
    description: "The lock supplied is invalid. Either the lock expired, or the message has already been removed.",
};
const BUSY = { code: 503, condition: "com.microsoft:server-busy", description: "The request was terminated." };
const BATCH = 0x80013700;

let clock = null;
let sequence = 0;
const faults = [];
const connections = new Set();
const now = () => clock ?? Date.now();

class Queue {
    constructor(name, given) {
        this.name = name;
        this.lockMs = given.lockMs ?? 60000;
        this.maxDelivery = given.maxDelivery ?? 10;
        this.dedupMs = given.dedupMs ?? 0;
        this.sessions = given.sessions ?? false;
        this.entries = [];
        this.sent = 0;
        this.links = [];
        this.seen = new Map();
        this.held = new Map();
        this.parked = [];
        this.dead = name.endsWith("/$deadletterqueue")
            ? null
            : new Queue(`${name}/$deadletterqueue`, { lockMs: this.lockMs, maxDelivery: Infinity });
    }

    // A scheduled message is deduplicated when it is scheduled, as any other when it is sent.
    add(message) {
        const id = message.message_id;
        if (this.dedupMs > 0 && id !== undefined && id !== null) {
            const before = this.seen.get(String(id));
            if (before !== undefined && now() - before < this.dedupMs) {
                return null;
            }
            this.seen.set(String(id), now());
        }
        const at = message.message_annotations?.["x-opt-scheduled-enqueue-time"];
        const due = at === undefined || at === null ? 0 : Number(at);
        const entry = {
            number: ++sequence,
            message,
            enqueued: Math.max(now(), due),
            scheduled: due > now() ? due : 0,
            ends: message.ttl ? now() + message.ttl : Infinity,
            failed: 0,
            lock: null,
            deferred: false,
        };
        this.entries.push(entry);
        this.sent += 1;
        setImmediate(() => this.pump());
        return entry;
    }

    remove(entry) {
        this.entries = this.entries.filter((other) => other !== entry);
        entry.lock = null;
    }

    bury(entry, reason, description) {
        this.remove(entry);
        if (!this.dead) {
            return;
        }
        const told = {};
        if (reason) {
            told.DeadLetterReason = reason;
        }
        if (description) {
            told.DeadLetterErrorDescription = description;
        }
        const properties = Object.assign({}, entry.message.application_properties, told);
        const message = Object.assign({}, entry.message, { application_properties: properties, ttl: undefined });
        delete message.message_annotations;
        this.dead.add(message).source = this.name;
    }

    // The lock of an entry ends, and with it a delivery that failed.
    unlock(entry) {
        entry.lock = null;
        entry.failed += 1;
        if (entry.failed >= this.maxDelivery) {
            const tries = `Message could not be consumed after ${this.maxDelivery} delivery attempts.`;
            this.bury(entry, "MaxDeliveryCountExceeded", tries);
        }
        setImmediate(() => this.pump());
    }

    modify(entry, properties) {
        const before = entry.message.application_properties;
        entry.message.application_properties = Object.assign({}, before, properties);
    }

    // What the clock does to a queue.
    tick() {
        for (const entry of [...this.entries]) {
            if (entry.scheduled && entry.scheduled <= now()) {
                entry.scheduled = 0;
            }
            if (entry.lock && !this.sessions && entry.lock.until <= now()) {
                this.unlock(entry);
            }
            if (!entry.lock && entry.ends <= now()) {
                this.bury(entry, "TTLExpiredException", "The message expired and was dead lettered.");
            }
        }
        for (const [id, held] of [...this.held]) {
            if (held.until <= now()) {
                this.leave(id, true);
            }
        }
        this.pump();
        this.dead?.tick();
    }

    // Whoever has a session loses it, and the locks of its messages.
    leave(id, tell) {
        const held = this.held.get(id);
        this.held.delete(id);
        for (const entry of this.entries) {
            if (entry.lock && entry.lock.link === held.link) {
                this.unlock(entry);
            }
        }
        setImmediate(() => this.pump());
        if (tell && held.link.is_open()) {
            const description = "The session lock has expired on the session.";
            held.link.close({ condition: "com.microsoft:session-lock-lost", description });
        }
    }

    ready(link) {
        const mine = (entry) => !this.sessions || entry.message.group_id === link.keyturn.session;
        return this.entries.find((entry) => !entry.lock && !entry.scheduled && !entry.deferred && mine(entry));
    }

    // Links that wait for a session, the longest first.
    seat() {
        this.parked = this.parked.filter((link) => connections.has(link.connection) && !link.keyturn.gone);
        while (this.parked.length > 0) {
            const id = this.nextSession();
            if (id === undefined) {
                return;
            }
            const link = this.parked.shift();
            clearTimeout(link.keyturn.timer);
            link.open();
            this.give(id, link);
        }
    }

    // The next session that has messages to be had and that nobody has.
    nextSession() {
        const waiting = this.entries.filter((entry) => !entry.lock && !entry.scheduled && !entry.deferred);
        return waiting.map((entry) => entry.message.group_id).find((id) => typeof id === "string" && !this.held.has(id));
    }

    give(id, link) {
        const until = now() + this.lockMs;
        this.held.set(id, { link, until });
        link.keyturn.session = id;
        link.set_source(Object.assign({}, link.source, { filter: { "com.microsoft:session-filter": id } }));
        // .NET counts in 100 ns from the year 1, which is more than a number of rhea's holds.
        const ticks = Buffer.alloc(8);
        ticks.writeBigInt64BE(BigInt(until) * 10000n + 621355968000000000n);
        link.local.attach.properties = { "com.microsoft:locked-until-utc": types.wrap_long(ticks) };
        this.links.push(link);
        setImmediate(() => this.pump());
    }

    pump() {
        this.seat();
        this.links = this.links.filter((link) => link.is_open());
        for (const link of this.links) {
            while (link.is_open() && room(link) > 0) {
                const entry = this.ready(link);
                if (!entry || !this.deliver(link, entry)) {
                    break;
                }
            }
        }
    }

    deliver(link, entry) {
        const fault = takeFault("deliver", this.name);
        if (fault?.how === "before") {
            cut(link.connection);
            return false;
        }
        const token = crypto.randomUUID();
        const taken = link.keyturn.deletes;
        const session = this.sessions ? this.held.get(link.keyturn.session) : null;
        entry.lock = { token, until: session?.until ?? now() + this.lockMs, link };
        const annotations = this.annotations(entry, !taken);
        const message = Object.assign({}, entry.message, {
            delivery_count: entry.failed,
            message_annotations: annotations,
        });
        const delivery = link.send(message, guid(token));
        link.keyturn.given += 1;
        if (taken) {
            this.remove(entry);
        } else {
            delivery.keyturn = { queue: this, entry, lock: entry.lock };
        }
        if (fault?.how === "after") {
            cut(link.connection);
            return false;
        }
        return true;
    }

    annotations(entry, locked) {
        const all = Object.assign({}, entry.message.message_annotations, {
            "x-opt-sequence-number": types.wrap_long(entry.number),
            "x-opt-enqueue-sequence-number": types.wrap_long(entry.number),
            "x-opt-enqueued-time": types.wrap_timestamp(entry.enqueued),
            "x-opt-message-state": types.wrap_int(entry.scheduled ? 2 : entry.deferred ? 1 : 0),
        });
        if (locked) {
            all["x-opt-locked-until"] = types.wrap_timestamp(entry.lock.until);
        }
        if (entry.source) {
            all["x-opt-deadletter-source"] = entry.source;
        }
        return all;
    }

    locked(token) {
        return this.entries.find((entry) => entry.lock && entry.lock.token === token && entry.lock.until > now());
    }

    // com.microsoft:update-disposition and the outcomes of links: what becomes of a locked entry.
    settle(entry, status, body) {
        switch (status) {
            case "completed":
                return this.remove(entry);
            case "abandoned":
                this.modify(entry, body["properties-to-modify"]);
                return this.unlock(entry);
            case "suspended":
                this.modify(entry, body["properties-to-modify"]);
                return this.bury(entry, body["deadletter-reason"], body["deadletter-description"]);
            case "defered":
                entry.lock = null;
                entry.deferred = true;
                return undefined;
            default:
                throw new Error(`no such disposition: ${status}`);
        }
    }
}

const queues = new Map();
for (const [name, given] of Object.entries(settings.queues)) {
    const queue = new Queue(name, given);
    queues.set(name, queue);
    queues.set(queue.dead.name, queue.dead);
}

// A lock token as .NET writes a GUID: its first three fields with the least significant byte first.
function guid(text) {
    const bytes = Buffer.from(text.replaceAll("-", ""), "hex");
    bytes.subarray(0, 4).reverse();
    bytes.subarray(4, 6).reverse();
    bytes.subarray(6, 8).reverse();
    return bytes;
}

function uuid(bytes) {
    const hex = Buffer.from(bytes).toString("hex");
    return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

// How many more messages a link takes. rhea takes its credit off only when it writes, and one too many on a link stops
// every link of the session.
function room(link) {
    return link.credit + link.delivery_count - link.keyturn.given;
}

// The path of an address, which may be a URL.
function path(address) {
    const text = String(address ?? "").replace(/^[a-z]+:\/\/[^/]+\/?/i, "");
    return text.replace(/^\/+|\/+$/g, "").toLowerCase();
}

function list(value) {
    return value === undefined || value === null ? [] : (value.value ?? Array.from(value));
}

function takeFault(op, queue) {
    const fits = (fault) => fault.op === op && (!fault.queue || fault.queue === queue);
    const index = faults.findIndex(fits);
    if (index < 0) {
        return null;
    }
    const fault = faults[index];
    fault.times -= 1;
    if (fault.times <= 0) {
        faults.splice(index, 1);
    }
    return fault;
}

function cut(connection) {
    connection.socket?.destroy();
    forget(connection);
}

// A connection is gone, and its links and sessions with it; locks of messages stay.
function forget(connection) {
    connections.delete(connection);
    for (const queue of queues.values()) {
        queue.links = queue.links.filter((link) => link.connection !== connection);
        for (const [id, held] of [...queue.held]) {
            if (held.link.connection === connection) {
                queue.leave(id, false);
            }
        }
    }
}

// Runs an operation as the fault that is set for it wants it.
function faulty(op, queue, connection, run, refuse) {
    const fault = takeFault(op, queue);
    switch (fault?.how) {
        case "busy":
            return refuse(BUSY);
        case "before":
            return cut(connection);
        case "after":
            run(() => cut(connection));
            return undefined;
        case "delay":
            setTimeout(() => run((tell) => tell()), fault.ms);
            return undefined;
        default:
            return run((tell) => tell());
    }
}

// When a token ends, in milliseconds; or a text that says why it is none for this entity.
function judge(type, token, name) {
    if (token.startsWith("SharedAccessSignature ")) {
        const fields = new URLSearchParams(token.slice("SharedAccessSignature ".length).replaceAll("+", "%2B"));
        const raw = /(?:^|&)sr=([^&]*)/.exec(token.slice("SharedAccessSignature ".length))?.[1] ?? "";
        const key = KEYS[fields.get("skn")];
        if (!key) {
            return "InvalidSignature: there is no such key.";
        }
        const signature = crypto.createHmac("sha256", key).update(`${raw}\n${fields.get("se")}`).digest("base64");
        if (signature !== fields.get("sig")) {
            return "InvalidSignature: The token has an invalid signature.";
        }
        const covered = path(fields.get("sr"));
        if (covered && name !== covered && !name.startsWith(`${covered}/`)) {
            return "InvalidAudience: the token is for another entity.";
        }
        const ends = Number(fields.get("se")) * 1000;
        return ends > now() ? ends : "ExpiredToken: The token is expired.";
    }
    if (type !== "jwt") {
        return `Unsupported token type ${type}`;
    }
    try {
        const claims = JSON.parse(Buffer.from(token.split(".")[1], "base64url"));
        if (!/^https:\/\/servicebus\.azure\.net\/?$/.test(claims.aud)) {
            return "InvalidAudience: the token is for another service.";
        }
        return claims.exp * 1000 > now() ? claims.exp * 1000 : "ExpiredToken: The token is expired.";
    } catch {
        return "MalformedToken: this is no token.";
    }
}

function allowed(connection, name) {
    const entity = name.replace(/\/\$management$/, "");
    for (const [covered, ends] of connection.keyturn.tokens) {
        if ((entity === covered || entity.startsWith(`${covered}/`)) && ends > now()) {
            return true;
        }
    }
    return false;
}

const UNAUTHORISED = {
    condition: "amqp:unauthorized-access",
    description: "Unauthorized access. 'Listen' or 'Send' claim(s) are required, or the token has expired.",
};

// What tokens are good for, whoever has them.
let rights = ["Listen", "Send"];

// Why there is no link to this address for this connection, which needs this right, or null.
function refusal(connection, name, right) {
    if (name === "$cbs") {
        return null;
    }
    if (!allowed(connection, name)) {
        return UNAUTHORISED;
    }
    // Either will do for $management.
    if (!name.endsWith("/$management") && !rights.includes(right)) {
        const description = `Unauthorized access. '${right}' claim(s) are required to perform this operation.`;
        return { condition: "amqp:unauthorized-access", description };
    }
    if (!queues.has(name.replace(/\/\$management$/, ""))) {
        const description = `The messaging entity '${name}' could not be found.`;
        return { condition: "amqp:not-found", description };
    }
    return null;
}

function answer(connection, name, request, told) {
    const links = connection.keyturn.replies.filter((link) => link.is_open() && link.keyturn.name === name);
    const link = links.find((one) => one.keyturn.target === request.reply_to) ?? links[0];
    if (!link) {
        return;
    }
    const [code, words] = name === "$cbs" ? ["status-code", "status-description"] : ["statusCode", "statusDescription"];
    const properties = { [code]: types.wrap_int(told.code), [words]: told.description ?? "OK" };
    if (told.condition) {
        properties.errorCondition = types.wrap_symbol(told.condition);
    }
    link.send({
        correlation_id: request.message_id,
        application_properties: properties,
        body: told.body ?? types.wrap_map({}),
    });
}

function manage(queue, operation, body, properties) {
    const done = (more) => ({ code: 200, body: more ?? types.wrap_map({}) });
    switch (operation) {
        case "renew-lock": {
            if (queue.sessions) {
                throw new Error("a message of a session has no lock of its own");
            }
            const entries = list(body["lock-tokens"]).map((token) => queue.locked(uuid(token)));
            if (entries.includes(undefined)) {
                return LOST;
            }
            const ends = entries.map((entry) => (entry.lock.until = now() + queue.lockMs));
            return done(types.wrap_map({ expirations: types.wrap_array(ends, 0x83) }));
        }
        case "update-disposition": {
            const session = body["session-id"];
            if (queue.sessions && queue.held.get(session)?.link.connection !== properties.connection) {
                return Object.assign({}, LOST, { condition: "com.microsoft:session-lock-lost" });
            }
            for (const token of list(body["lock-tokens"])) {
                const entry = queue.locked(uuid(token));
                if (!entry || (queue.sessions && entry.message.group_id !== session)) {
                    return LOST;
                }
                queue.settle(entry, body["disposition-status"], body);
            }
            return done();
        }
        case "schedule-message": {
            const numbers = list(body.messages).map(({ message }) => {
                const scheduled = rhea.message.decode(message);
                if (!scheduled.message_annotations?.["x-opt-scheduled-enqueue-time"]) {
                    throw new Error("a scheduled message without its time");
                }
                // One that is a duplicate gets a number of its own, and is not there.
                return queue.add(scheduled)?.number ?? ++sequence;
            });
            return done(types.wrap_map({ "sequence-numbers": types.wrap_array(numbers, 0x81) }));
        }
        case "cancel-scheduled-message": {
            for (const number of list(body["sequence-numbers"])) {
                const entry = queue.entries.find((one) => one.number === Number(number) && one.scheduled);
                if (!entry) {
                    return { code: 404, condition: "com.microsoft:message-not-found", description: "No such message." };
                }
                queue.remove(entry);
            }
            return done();
        }
        case "peek-message": {
            const from = Number(body["from-sequence-number"]);
            const fits = (entry) => entry.number >= from && (!body["session-id"] || entry.message.group_id === body["session-id"]);
            const found = queue.entries.filter(fits).sort((a, b) => a.number - b.number);
            const shown = found.slice(0, Number(body["message-count"])).map((entry) => {
                const message = Object.assign({}, entry.message, {
                    delivery_count: entry.failed,
                    message_annotations: queue.annotations(entry, false),
                });
                return types.wrap_map({ message: types.wrap_binary(rhea.message.encode(message)) });
            });
            return shown.length === 0
                ? { code: 204, description: "There is nothing there." }
                : done(types.wrap_map({ messages: types.wrap_list(shown) }));
        }
        case "renew-session-lock": {
            const held = queue.held.get(body["session-id"]);
            if (!held || held.link.connection !== properties.connection) {
                return Object.assign({}, LOST, { condition: "com.microsoft:session-lock-lost" });
            }
            held.until = now() + queue.lockMs;
            for (const entry of queue.entries) {
                if (entry.lock?.link === held.link) {
                    entry.lock.until = held.until;
                }
            }
            return done(types.wrap_map({ expiration: types.wrap_timestamp(held.until) }));
        }
        default:
            return { code: 501, condition: "amqp:not-implemented", description: `There is no operation ${operation}.` };
    }
}

const container = rhea.create_container({ id: "service-bus", autosettle: false });
container.sasl_server_mechanisms.enable_anonymous();
container.sasl_server_mechanisms.MSSBCBS = () => ({
    start() {
        this.outcome = true;
        this.username = "cbs";
    },
});

container.on("connection_open", ({ connection }) => {
    connection.keyturn = { tokens: new Map(), replies: [], links: new Set() };
    connection.socket?.setNoDelay?.(true);
    connections.add(connection);
});

container.on("disconnected", ({ connection }) => forget(connection));

// The peer wants to receive.
container.on("sender_open", ({ sender, connection }) => {
    const name = path(sender.source?.address);
    const wanted = sender.remote.attach;
    sender.keyturn = { name, target: sender.target?.address, deletes: wanted.snd_settle_mode === 1, given: 0 };
    sender.set_source(sender.source ?? { address: name });
    sender.set_target(sender.target ?? {});
    sender.local.attach.rcv_settle_mode = wanted.rcv_settle_mode;
    sender.local.attach.snd_settle_mode = wanted.snd_settle_mode;
    const refused = refusal(connection, name, "Listen");
    if (refused) {
        return refuse(sender, refused.condition, refused.description);
    }
    connection.keyturn.links.add(sender);
    if (name === "$cbs" || name.endsWith("/$management")) {
        connection.keyturn.replies.push(sender);
        return undefined;
    }
    const queue = queues.get(name);
    if (queue.sessions) {
        return takeSession(queue, sender);
    }
    if ("com.microsoft:session-filter" in (sender.source?.filter ?? {})) {
        const description = "A sessionful message receiver cannot be created on an entity that does not require sessions.";
        return refuse(sender, "amqp:not-allowed", description);
    }
    queue.links.push(sender);
    setImmediate(() => queue.pump());
    return undefined;
});

// A link that is not to be is answered without a source, and closed.
function refuse(link, condition, description) {
    link.local.attach.source = undefined;
    link.local.attach.target = undefined;
    return link.close({ condition, description });
}

// A link to a queue with sessions is a link to one session: the one it names, or the next that nobody has. For that it
// waits, as long as it says, and is not answered before.
function takeSession(queue, link) {
    const filter = link.source?.filter ?? {};
    if (!("com.microsoft:session-filter" in filter)) {
        const description = "It is not possible for an entity that requires sessions to create a non-sessionful receiver.";
        return refuse(link, "amqp:not-allowed", description);
    }
    const named = filter["com.microsoft:session-filter"];
    const asked = named?.value ?? named;
    if (typeof asked === "string") {
        if (queue.held.has(asked)) {
            const description = "The requested session cannot be accepted. It may be locked by another receiver.";
            return refuse(link, "com.microsoft:session-cannot-be-locked", description);
        }
        return queue.give(asked, link);
    }
    // As if rhea had not answered yet.
    link.state.local_open = false;
    link.state.open_requests -= 1;
    const patience = Number(link.remote.attach.properties?.["com.microsoft:timeout"] ?? 60000);
    link.keyturn.timer = setTimeout(() => {
        if (queue.parked.includes(link)) {
            queue.parked = queue.parked.filter((other) => other !== link);
            link.open();
            refuse(link, "com.microsoft:timeout", "There is no session that could be had.");
        }
    }, patience);
    queue.parked.push(link);
    return queue.pump();
}

// With a session its links are gone, those that wait too.
container.on("session_close", ({ session }) => {
    for (const queue of queues.values()) {
        for (const link of queue.parked.filter((parked) => parked.session === session)) {
            link.keyturn.gone = true;
        }
        for (const [id, held] of [...queue.held]) {
            if (held.link.session === session) {
                queue.leave(id, false);
            }
        }
    }
});

container.on("sender_close", ({ sender }) => {
    const queue = queues.get(sender.keyturn?.name);
    const session = sender.keyturn?.session;
    if (queue && session && queue.held.get(session)?.link === sender) {
        queue.leave(session, false);
    }
});

// The peer wants to send.
container.on("receiver_open", ({ receiver, connection }) => {
    const name = path(receiver.target?.address);
    receiver.keyturn = { name };
    receiver.set_target(receiver.target ?? { address: name });
    receiver.set_source(receiver.source ?? {});
    receiver.local.attach.max_message_size = LARGEST;
    const refused = refusal(connection, name, "Send");
    if (refused) {
        return refuse(receiver, refused.condition, refused.description);
    }
    connection.keyturn.links.add(receiver);
    receiver.add_credit(500);
    return undefined;
});

container.on("sendable", ({ sender }) => queues.get(sender.keyturn?.name)?.pump());

container.on("message", ({ receiver, connection, message, delivery }) => {
    const name = receiver.keyturn.name;
    if (!connection.keyturn.links.has(receiver)) {
        // On its way when the link was refused.
        return undefined;
    }
    receiver.add_credit(1);
    if (name === "$cbs") {
        delivery.accept();
        return putToken(connection, message);
    }
    if (name.endsWith("/$management")) {
        delivery.accept();
        return request(connection, name, message);
    }
    return take(connection, queues.get(name), message, delivery);
});

function putToken(connection, message) {
    const properties = message.application_properties ?? {};
    const name = path(properties.name);
    const body = message.body?.content ?? message.body;
    const judged =
        properties.operation === "put-token"
            ? judge(properties.type, Buffer.isBuffer(body) ? body.toString() : String(body), name)
            : `There is no operation ${properties.operation}.`;
    const run = (end) => {
        if (typeof judged === "number") {
            connection.keyturn.tokens.set(name, judged);
        }
        const told = typeof judged === "number" ? { code: 202, description: "Accepted" } : { code: 401, description: judged };
        end(() => answer(connection, "$cbs", message, told));
    };
    return faulty("put-token", name, connection, run, (told) => answer(connection, "$cbs", message, told));
}

function request(connection, name, message) {
    const queue = queues.get(name.replace(/\/\$management$/, ""));
    const properties = message.application_properties ?? {};
    const operation = String(properties.operation).replace(/^com\.microsoft:/, "");
    const body = message.body?.content && !Buffer.isBuffer(message.body.content) ? message.body.content : message.body;
    const run = (end) => {
        let told;
        try {
            told = manage(queue, operation, body ?? {}, { connection });
        } catch (error) {
            told = { code: 400, condition: "amqp:not-allowed", description: String(error.message) };
        }
        queue.pump();
        end(() => answer(connection, name, message, told));
    };
    return faulty(operation, queue.name, connection, run, (told) => answer(connection, name, message, told));
}

function take(connection, queue, message, delivery) {
    // The client of Microsoft counts on all three fields.
    const reject = ({ condition, description }) => delivery.reject({ condition, description, info: {} });
    let all = [message];
    if (delivery.format === BATCH) {
        const body = (Buffer.isBuffer(message) ? rhea.message.decode(message) : message).body;
        const parts = body.multiple ? body.content : [body.content ?? body];
        all = parts.map((part) => rhea.message.decode(part));
    }
    if (all.some((one) => rhea.message.encode(one).length > LARGEST)) {
        const description = "The received message exceeds the limit of the link.";
        return reject({ condition: "amqp:link:message-size-exceeded", description });
    }
    if (queue.sessions && all.some((one) => typeof one.group_id !== "string")) {
        const description = "The SessionId was not set on a message, and it cannot be sent to the entity.";
        return reject({ condition: "amqp:not-allowed", description });
    }
    const run = (end) => {
        all.forEach((one) => queue.add(one));
        end(() => delivery.accept());
    };
    return faulty("send", queue.name, connection, run, reject);
}

// The outcomes that a receiving peer gives: settled on the link, told back as they were.
function outcome(kind) {
    return ({ delivery }) => {
        const state = delivery.remote_state;
        if (kind === "released" && rhea.message.is_modified(state)) {
            // rhea tells both of one that is modified.
            return;
        }
        if (!delivery.keyturn) {
            delivery.update(true);
            return;
        }
        const { queue, entry, lock } = delivery.keyturn;
        if (entry.lock !== lock || lock.until <= now()) {
            const { condition, description } = LOST;
            delivery.update(true, rhea.message.rejected({ error: { condition, description } }).described());
            return;
        }
        delivery.update(true, rhea.message[kind]({}).described());
        if (kind === "accepted") {
            queue.settle(entry, "completed", {});
        } else if (kind === "rejected") {
            const info = state?.error?.info ?? {};
            queue.bury(entry, info.DeadLetterReason, info.DeadLetterErrorDescription);
        } else {
            const status = kind === "modified" && state.undeliverable_here ? "defered" : "abandoned";
            queue.settle(entry, status, { "properties-to-modify": state?.message_annotations });
        }
    };
}
for (const kind of ["accepted", "released", "rejected", "modified"]) {
    container.on(kind, outcome(kind));
}
// What our own refusals come back with when the other side closes the link.
const ORDINARY = new Set(["com.microsoft:timeout", "com.microsoft:session-lock-lost"]);
for (const trouble of ["connection_error", "session_error", "sender_error", "receiver_error", "protocol_error", "error"]) {
    container.on(trouble, (context) => {
        const error = context?.error ?? context?.sender?.error ?? context?.session?.error ?? context;
        if (ORDINARY.has(error?.condition)) {
            return;
        }
        process.stderr.write(`service-bus: ${trouble}: ${error?.condition ?? error?.message ?? "?"}\n`);
    });
}

// Links whose token has run out are closed, and what runs out does so.
function tick() {
    for (const connection of connections) {
        for (const link of connection.keyturn.links) {
            const name = link.keyturn.name;
            if (link.is_open() && name !== "$cbs" && !allowed(connection, name)) {
                link.close(UNAUTHORISED);
            }
        }
    }
    for (const queue of queues.values()) {
        queue.tick();
    }
}
setInterval(() => clock === null && tick(), 10);

function command(given) {
    if ("clock" in given) {
        clock = given.clock;
        tick();
        return {};
    }
    if ("fault" in given) {
        faults.push(Object.assign({ times: 1 }, given.fault));
        return {};
    }
    if ("calm" in given) {
        faults.length = 0;
        return {};
    }
    if ("rights" in given) {
        rights = given.rights;
        return {};
    }
    if ("drop" in given) {
        [...connections].forEach(cut);
        return {};
    }
    if ("look" in given) {
        const seen = (queue) =>
            queue.entries.map((entry) => ({
                id: entry.message.message_id,
                failed: entry.failed,
                locked: entry.lock !== null,
                scheduled: entry.scheduled,
                session: entry.message.group_id,
                properties: entry.message.application_properties,
            }));
        const queue = queues.get(given.look);
        return {
            alive: seen(queue),
            dead: seen(queue.dead),
            sent: queue.sent,
            connections: connections.size,
            faults: faults.length,
        };
    }
    throw new Error("there is no such command");
}

const options = { port: settings.port ?? 0, host: "127.0.0.1", receiver_options: { autoaccept: false, credit_window: 0 } };
options.sender_options = { autosettle: false, treat_modified_as_released: false };
if (settings.certificate) {
    options.transport = "tls";
    options.cert = fs.readFileSync(settings.certificate);
    options.key = fs.readFileSync(settings.certificateKey);
}
const server = container.listen(options);
server.on("listening", () => process.stdout.write(`${JSON.stringify({ port: server.address().port })}\n`));
server.on("connection", (socket) => socket.setNoDelay(true));
const lines = readline.createInterface({ input: process.stdin });
lines.on("line", (line) => process.stdout.write(`${JSON.stringify(command(JSON.parse(line)))}\n`));
// Whoever started it is gone.
lines.on("close", () => process.exit(0));
