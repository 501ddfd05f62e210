/*
 * dispatch-worker.js: carries the callbacks of a browser's pages to a dash_dispatch server.
 *
 * It stands where Dash's own websocket worker would. Towards the pages it speaks the messages of
 * Dash's renderer (`connect`, `callback_request`, ...) and a few of its own, which begin with `dd:`
 * and come from dispatch-page.js. Towards the server it speaks wire version 1.
 *
 * What it promises a page: a callback that was asked for is answered exactly once, whatever happens
 * to the connection. For that every request is kept until its answer is here, and is sent again on
 * each new connection; the server knows requests that it has seen. What has been received is counted
 * by mailbox entry, so that the server can go on where it stopped and nothing is shown twice.
 *
 * The same file runs as a SharedWorker (one connection for all tabs), as a dedicated Worker, and as
 * a <script> in the page where a browser or a policy allows neither.
 *
 * A script that dies takes nothing with it: its pages hold its session's handle, and each the marks of
 * what it has been given. They bring both to the next script, which takes the session up again.
 *
 *   Hall      leads each page to the desk of its session; usually there is one
 *   Desk      pages, their pending calls, and what to do with each message
 *   Link      keeps one channel to the server: a Socket, else Polling
 *   Session   who we are to the server, and how far we have read
 */
(() => {
    'use strict';

    const WIRE_VERSION = 1;

    // A proxy may accept a websocket and swallow its frames: open means `welcome` has come.
    const SOCKET_OPEN_DEADLINE_MS = 6000;
    const SOCKET_IDLE_MS = 25000;
    const SOCKET_PONG_DEADLINE_MS = 10000;
    // Shorter lives count as failures, or a request that kills its connection would loop at full speed.
    const SOCKET_STABLE_MS = 5000;
    // A websocket that has worked before gets this many tries before long-poll takes over.
    const SOCKET_TRIES = 3;
    const SOCKET_BACKOFF_MS = {first: 250, most: 10000};
    const SOCKET_BACKOFF_WHILE_POLLING_MS = {first: 3000, most: 30000};

    const POLL_BACKOFF_MS = {first: 250, most: 10000};
    const SEND_DEADLINE_MS = 30000;
    // The server may hold a poll for up to 55 s.
    const POLL_DEADLINE_MS = 70000;
    // An empty answer that comes sooner was not held: do not ask again at full speed.
    const POLL_HELD_MS = 1000;
    const SEND_BATCH_CHARS = 256 * 1024;
    const SEND_BATCH_MESSAGES = 64;
    const RETRY_AFTER_MOST_MS = 60000;

    const ACK_DELAY_MS = 500;
    const ACK_ENTRIES = 64;
    const OFFLINE_AFTER_MS = 3000;
    const REFUSALS = 3;

    // A page without Web Locks pings. Browsers slow the timers of hidden pages to one a minute.
    const PAGE_SILENCE_MS = 180000;
    const PAGE_CHECK_MS = 30000;
    // A renderer that is mounted again at once (React's strict mode) should find its connection.
    const LINGER_MS = 1000;

    // Small messages that wait for a connection. When full the oldest is dropped: a lost `cancel` or
    // `bye` costs the server some work, a lost `props` one timeout of one get_prop; no answer is lost.
    const OUTBOX_MOST = 1000;

    // Of older ones nothing can be on its way any more.
    const CONNECTIONS_REMEMBERED = 64;

    // Pages get a handle that the server has renewed when theirs is this old; it is good for days.
    const HANDLE_AGE_MS = 3600000;
    // Messages for a page of a script that has died, until it comes: as many as its port would hold.
    // When full the oldest is dropped; a page sleeps long while so much is said to it.
    const HELD_MOST = 10000;

    const CLOSE_NORMAL = 1000;
    const CLOSE_TOO_BIG = 1009;
    const CLOSE_REFUSED = new Set([4001, 4003]);

    // Where a message came from, when not from a connection by its name.
    const MAIL = '';

    const now = () => performance.now();

    /** Exponential back-off; the upper half is random, so that browsers do not come back in step. */
    function backoff({first, most}, attempt) {
        const ceiling = Math.min(most, first * 2 ** Math.min(attempt, 16));
        return ceiling / 2 + (Math.random() * ceiling) / 2;
    }

    /** Mailbox entry ids are two numbers, `<milliseconds>-<counter>`, and ordered by them. */
    function isAfter(entry, cursor) {
        if (cursor === null) {
            return true;
        }
        const [time, count] = entry.split('-').map(Number);
        const [cursorTime, cursorCount] = cursor.split('-').map(Number);
        return time > cursorTime || (time === cursorTime && count > cursorCount);
    }

    function parseFrame(text) {
        const frame = JSON.parse(text);
        if (!Array.isArray(frame) || !frame.every(Array.isArray)) {
            throw new Error('not a frame');
        }
        return frame;
    }

    /** Waits that can be cut short, all at once. */
    class Pause {
        #ends = new Set();

        wait(ms) {
            return new Promise(resolve => {
                const end = () => {
                    clearTimeout(timer);
                    this.#ends.delete(end);
                    resolve();
                };
                const timer = setTimeout(end, ms);
                this.#ends.add(end);
            });
        }

        end() {
            this.#ends.forEach(end => end());
        }
    }

    /** Who we are to the server, and how far its mailbox has been read. Kept in memory only. */
    class Session {
        /** By which scripts and pages know it; the server does not. Also the name of a lock. */
        name = uniqueName('dash-dispatch-session');
        token = null;
        cursor = null;
        /** Called when there is a new handle. */
        onrenewed = () => {};
        /** Counts sessions. A token will not do: the server renews it within one session. */
        epoch = 0;
        /** Connection → its last direct message. What went with a connection comes again by mail. */
        #directs = new Map();

        hello() {
            return {
                type: 'hello',
                version: WIRE_VERSION,
                session: this.token,
                cursor: this.cursor,
                pieces: true
            };
        }

        welcomed({session, resumed}) {
            if (!resumed) {
                this.forget();
            }
            this.token = session;
            this.onrenewed();
        }

        forget() {
            if (this.epoch > 0) {
                this.name = uniqueName('dash-dispatch-session');
            }
            this.token = null;
            this.cursor = null;
            this.epoch += 1;
        }

        /** Go on with what another script has begun: all that it has not confirmed comes again. */
        resume({name, token}) {
            this.name = name;
            this.token = token;
            this.epoch += 1;
        }

        /** False for an entry that has been seen: after a cut the server may send it again. */
        take(entry) {
            if (!isAfter(entry, this.cursor)) {
                return false;
            }
            this.cursor = entry;
            return true;
        }

        /** False for a direct message that has been seen. */
        takeDirect(connection, number) {
            const last = this.#directs.get(connection) ?? 0;
            this.#directs.delete(connection);
            this.#directs.set(connection, Math.max(last, number));
            if (this.#directs.size > CONNECTIONS_REMEMBERED) {
                this.#directs.delete(this.#directs.keys().next().value);
            }
            return number > last;
        }

        /** False for mail that this browser had received before it was mailed. */
        isNews({direct}) {
            const [connection, number] = (direct ?? '').split(':');
            return !direct || this.takeDirect(connection, Number(number));
        }
    }

    /**
     * One websocket, from its opening to its end. `owner` hears socketUp, socketDown (exactly once,
     * unless close() came first), received, frameEnd and sessionLost.
     */
    class Socket {
        up = false;
        #owner;
        #session;
        #ws = null;
        #over = false;
        #openTimer = null;
        #beatTimer = null;
        #ackTimer = null;
        #helloEpoch = 0;
        #helloWasNew = false;
        #upAt = 0;
        #heardAt = 0;
        #pingedAt = null;
        #direct = 0;
        #pieces = [];
        #name = uniqueName('connection');
        #unacked = 0;

        constructor(url, session, owner) {
            this.#owner = owner;
            this.#session = session;
            this.#expectWelcome();
            this.#open(url);
        }

        #expectWelcome() {
            clearTimeout(this.#openTimer);
            this.#openTimer = setTimeout(
                () => this.#end({reason: 'no welcome in time', slow: true}),
                SOCKET_OPEN_DEADLINE_MS
            );
        }

        #open(url) {
            try {
                this.#ws = new WebSocket(url);
            } catch (error) {
                setTimeout(() => this.#end({reason: String(error)}), 0);
                return;
            }
            this.#ws.onopen = () => this.#hello();
            this.#ws.onmessage = event => this.#heard(event.data);
            this.#ws.onclose = ({code, reason}) => this.#end({code, reason});
            // `close` follows with the code, except where a policy forbids the connection: then
            // there is only this event.
            this.#ws.onerror = () => setTimeout(() => this.#end({reason: 'error'}), 100);
        }

        send(message) {
            this.#ws.send(JSON.stringify(message));
        }

        /** Ask now whether the other end is still there. */
        probe() {
            if (this.up && this.#pingedAt === null) {
                this.#ping();
            }
        }

        close() {
            this.#finish();
            this.#ws?.close(CLOSE_NORMAL);
        }

        #hello() {
            this.#helloEpoch = this.#session.epoch;
            this.#helloWasNew = this.#session.token === null;
            this.send(this.#session.hello());
        }

        #heard(text) {
            if (this.#over) {
                return;
            }
            this.#heardAt = now();
            this.#pingedAt = null;
            const kind = text[0];
            if (kind === '+') {
                // A piece of a large frame; others follow.
                this.#pieces.push(text.slice(1));
                return;
            }
            if (kind === '=') {
                text = this.#pieces.join('') + text.slice(1);
                this.#pieces = [];
            }
            try {
                parseFrame(text).forEach(([mark, message]) => this.#take(mark, message));
            } catch (error) {
                console.error('[dash_dispatch] unreadable frame', error);
                this.#end({reason: 'unreadable frame'});
            }
            this.#owner.frameEnd();
        }

        #take(mark, message) {
            if (this.#over) {
                return;
            }
            if (mark === null) {
                this.#control(message);
            } else if (this.#isNew(mark, message)) {
                const source = typeof mark === 'string' ? MAIL : this.#name;
                this.#owner.received(message, [source, mark]);
            }
        }

        #isNew(mark, message) {
            this.#ackSoon();
            if (typeof mark === 'string') {
                return this.#session.take(mark) && this.#session.isNews(message);
            }
            this.#direct = Math.max(mark, this.#direct);
            return this.#session.takeDirect(this.#name, mark);
        }

        #control(message) {
            if (message.type === 'welcome') {
                this.#welcome(message);
            } else if (message.type === 'reset') {
                this.#reset(message);
            }
        }

        #welcome(message) {
            if (this.#helloEpoch !== this.#session.epoch) {
                // Long-poll got another session meanwhile, and calls are running in it.
                this.#end({reason: 'session changed'});
                return;
            }
            this.#session.welcomed(message);
            this.#name = message.connection ?? this.#name;
            clearTimeout(this.#openTimer);
            this.#upAt = this.#upAt || now();
            this.up = true;
            this.#beat(SOCKET_IDLE_MS);
            this.#owner.socketUp();
        }

        #reset({reason}) {
            this.#session.forget();
            this.#owner.sessionLost(reason);
            if (this.#helloWasNew) {
                // A new session was refused as well: begin again, with back-off.
                this.#end({reason});
                return;
            }
            this.up = false;
            this.#expectWelcome();
            this.#hello();
        }

        #beat(ms) {
            clearTimeout(this.#beatTimer);
            this.#beatTimer = setTimeout(() => this.#checkAlive(), ms);
        }

        #checkAlive() {
            const silence = now() - this.#heardAt;
            if (this.#pingedAt !== null) {
                this.#end({reason: 'no answer to ping', slow: true});
            } else if (silence >= SOCKET_IDLE_MS) {
                this.#ping();
            } else {
                this.#beat(SOCKET_IDLE_MS - silence);
            }
        }

        #ping() {
            this.#pingedAt = now();
            this.send({type: 'ping'});
            this.#beat(SOCKET_PONG_DEADLINE_MS);
        }

        #ackSoon() {
            this.#unacked += 1;
            if (this.#unacked >= ACK_ENTRIES) {
                this.#ack();
            } else if (this.#ackTimer === null) {
                this.#ackTimer = setTimeout(() => this.#ack(), ACK_DELAY_MS);
            }
        }

        #ack() {
            clearTimeout(this.#ackTimer);
            this.#ackTimer = null;
            this.#unacked = 0;
            this.send({type: 'ack', cursor: this.#session.cursor, direct: this.#direct});
        }

        #end({code = null, reason = '', slow = false}) {
            if (this.#over) {
                return;
            }
            const wasUp = this.#upAt > 0;
            const stable = wasUp && now() - this.#upAt >= SOCKET_STABLE_MS;
            this.#finish();
            // A dead connection can take minutes to close: it is not waited for.
            this.#ws?.close();
            this.#owner.socketDown({code, reason, slow, wasUp, stable});
        }

        #finish() {
            this.#over = true;
            this.up = false;
            [this.#openTimer, this.#beatTimer, this.#ackTimer].forEach(clearTimeout);
            if (this.#ws) {
                this.#ws.onopen = this.#ws.onmessage = this.#ws.onclose = this.#ws.onerror = null;
            }
        }
    }

    /** Why a request over HTTP did not do its work. */
    class Failure extends Error {
        /**
         * @param {'network'|'busy'|'invalid'|'refused'|'bad'} kind network: nothing came back;
         *   busy: try later; invalid: the session is; refused: we are not let in; bad: never send
         *   this again.
         */
        constructor(kind, message, retryAfterMs = null) {
            super(message);
            this.kind = kind;
            this.retryAfterMs = retryAfterMs;
        }
    }

    /**
     * Long-poll with the meaning of the websocket. `owner` hears pollingUp, pollingDown, refused,
     * rejected, received, frameEnd and sessionLost. Keeps trying until stop().
     */
    class Polling {
        up = false;
        #owner;
        #session;
        #urls;
        #queue = [];
        #inFlight = [];
        #alone = 0;
        #wakeSender = () => {};
        #pause = new Pause();
        #stopped = false;
        #round = null;
        #attempt = 0;

        constructor(urls, session, owner) {
            this.#urls = urls;
            this.#session = session;
            this.#owner = owner;
            this.#run();
        }

        send(message) {
            this.#queue.push(message);
            this.#wakeSender();
        }

        /** Stop waiting: the network may be back. */
        probe() {
            this.#pause.end();
        }

        /** Stop, and give back what has not been sent. */
        stop() {
            this.#stopped = true;
            this.up = false;
            this.#round?.abort();
            this.#pause.end();
            this.#wakeSender();
            return [...this.#inFlight.splice(0), ...this.#queue.splice(0)];
        }

        /** Last words of a browser whose pages have gone: nobody waits for the answer. */
        farewell(messages) {
            if (this.#session.token !== null) {
                this.#post(this.#urls.send, this.#sendBody(messages.map(m => JSON.stringify(m))), {
                    keepalive: true,
                    deadlineMs: SEND_DEADLINE_MS
                }).catch(() => {});
            }
        }

        async #run() {
            while (!this.#stopped) {
                this.#round = new AbortController();
                const failure = await this.#runRound(this.#round.signal);
                this.#round.abort();
                this.#wakeSender();
                if (!this.#stopped) {
                    await this.#recover(failure);
                }
            }
        }

        /** Greet, then send and poll side by side until either fails. */
        async #runRound(signal) {
            try {
                await this.#greet(signal);
                await Promise.race([this.#pollLoop(signal), this.#sendLoop(signal)]);
            } catch (error) {
                return error;
            }
            return null;
        }

        async #recover(failure) {
            this.up = false;
            // Pending calls are sent again after the next greeting.
            const unsent = [...this.#inFlight.splice(0), ...this.#queue];
            this.#queue = unsent.filter(message => message.type !== 'call');
            this.#owner.pollingDown();
            if (failure?.kind === 'invalid') {
                this.#session.forget();
                this.#owner.sessionLost(failure.message);
            } else if (failure?.kind === 'refused' || failure?.kind === 'bad') {
                this.#owner.refused(failure.message);
            } else if (failure && !(failure instanceof Failure)) {
                console.error('[dash_dispatch] long-poll', failure);
            }
            const waitMs = failure?.retryAfterMs ?? backoff(POLL_BACKOFF_MS, this.#attempt);
            this.#attempt += 1;
            await this.#pause.wait(waitMs);
        }

        /** No call goes out before the session is known, or its answer could end in a lost mailbox. */
        async #greet(signal) {
            const body = this.#sendBody([JSON.stringify(this.#session.hello())]);
            const frame = await this.#post(this.#urls.send, body, {
                signal,
                deadlineMs: SEND_DEADLINE_MS
            });
            if (this.#stopped) {
                return;
            }
            this.#takeControl(frame);
            if (this.#session.token === null) {
                throw new Failure('network', 'no welcome');
            }
            this.up = true;
            this.#owner.pollingUp();
        }

        async #pollLoop(signal) {
            while (!signal.aborted) {
                const {token, cursor} = this.#session;
                const askedAt = now();
                const frame = await this.#post(
                    this.#urls.poll,
                    JSON.stringify({version: WIRE_VERSION, session: token, cursor}),
                    {signal, deadlineMs: POLL_DEADLINE_MS}
                );
                if (signal.aborted) {
                    return;
                }
                this.#attempt = 0;
                this.#takeEntries(frame);
                if (!frame.length && now() - askedAt < POLL_HELD_MS) {
                    await this.#pause.wait(POLL_HELD_MS);
                }
            }
        }

        async #sendLoop(signal) {
            while (!signal.aborted) {
                if (this.#queue.length) {
                    const batch = this.#takeBatch();
                    this.#inFlight = batch.map(({message}) => message);
                    await this.#deliver(batch, signal);
                    this.#inFlight = [];
                } else {
                    await new Promise(resolve => {
                        this.#wakeSender = resolve;
                    });
                }
            }
        }

        #takeBatch() {
            const batch = [];
            const most = this.#alone > 0 ? 1 : SEND_BATCH_MESSAGES;
            this.#alone = Math.max(0, this.#alone - 1);
            let chars = 0;
            while (this.#queue.length && batch.length < most) {
                const text = JSON.stringify(this.#queue[0]);
                chars += text.length;
                if (batch.length && chars > SEND_BATCH_CHARS) {
                    break;
                }
                batch.push({message: this.#queue.shift(), text});
            }
            return batch;
        }

        async #deliver(batch, signal) {
            for (let attempt = 0; !signal.aborted; attempt += 1) {
                try {
                    const body = this.#sendBody(batch.map(({text}) => text));
                    const deadlineMs = SEND_DEADLINE_MS;
                    this.#takeControl(
                        await this.#post(this.#urls.send, body, {signal, deadlineMs})
                    );
                    return;
                } catch (failure) {
                    if (signal.aborted) {
                        return; // stop() has given the batch back, or it is sent again by linkUp
                    }
                    // We were let in, so a refusal is meant for a message.
                    if (failure.kind === 'bad' || failure.kind === 'refused') {
                        this.#reject(batch, failure);
                        return;
                    }
                    if (failure.kind !== 'busy') {
                        this.#putBack(batch);
                        throw failure;
                    }
                    const waitMs = failure.retryAfterMs ?? backoff(POLL_BACKOFF_MS, attempt);
                    await this.#pause.wait(waitMs);
                }
            }
        }

        #putBack(batch) {
            this.#inFlight = [];
            this.#queue.unshift(...batch.map(({message}) => message));
        }

        /** One bad message must not take its neighbours with it: they are sent again, each alone. */
        #reject(batch, failure) {
            if (batch.length === 1) {
                this.#owner.rejected(batch[0].message, failure.message);
                return;
            }
            this.#putBack(batch);
            this.#alone = batch.length;
        }

        #takeControl(frame) {
            for (const [mark, message] of frame) {
                // Entries come by poll only: taken here, they would overtake a poll under way.
                if (mark === null && message.type === 'welcome') {
                    this.#session.welcomed(message);
                } else if (mark === null && message.type === 'reset') {
                    throw new Failure('invalid', message.reason);
                }
            }
        }

        #takeEntries(frame) {
            try {
                for (const [mark, message] of frame) {
                    if (mark === null && message.type === 'reset') {
                        throw new Failure('invalid', message.reason);
                    }
                    if (
                        typeof mark === 'string' &&
                        this.#session.take(mark) &&
                        this.#session.isNews(message)
                    ) {
                        this.#owner.received(message, [MAIL, mark]);
                    }
                }
            } finally {
                this.#owner.frameEnd();
            }
        }

        #sendBody(texts) {
            const head = JSON.stringify({version: WIRE_VERSION, session: this.#session.token});
            return `${head.slice(0, -1)},"messages":[${texts.join(',')}]}`;
        }

        async #post(url, body, {signal = null, deadlineMs, keepalive = false}) {
            const aborter = new AbortController();
            const abort = () => aborter.abort();
            const timer = setTimeout(abort, deadlineMs);
            signal?.addEventListener('abort', abort);
            try {
                const response = await fetch(url, {
                    method: 'POST',
                    headers: {'Content-Type': 'application/json'},
                    credentials: 'same-origin',
                    cache: 'no-store',
                    body,
                    keepalive,
                    signal: aborter.signal
                });
                return await this.#read(response);
            } catch (error) {
                throw error instanceof Failure ? error : new Failure('network', String(error));
            } finally {
                clearTimeout(timer);
                signal?.removeEventListener('abort', abort);
            }
        }

        async #read(response) {
            const text = await response.text();
            if (response.status === 200) {
                return parseFrame(text);
            }
            throw new Failure(
                this.#kindOf(response.status),
                errorText(text) || `HTTP ${response.status}`,
                retryAfterMs(response)
            );
        }

        #kindOf(status) {
            if (status === 400 || status === 413) {
                return 'bad';
            }
            if (status === 410) {
                return 'invalid';
            }
            return status === 401 || status === 403 ? 'refused' : 'busy';
        }
    }

    function errorText(text) {
        try {
            const {error} = JSON.parse(text);
            return typeof error === 'string' ? error : error?.message;
        } catch {
            return null; // a proxy's error page
        }
    }

    function retryAfterMs(response) {
        const seconds = parseFloat(response.headers.get('Retry-After'));
        return seconds >= 0 ? Math.min(seconds * 1000, RETRY_AFTER_MOST_MS) : null;
    }

    /**
     * Keeps one channel to the server while it is wanted: the websocket, and long-poll where there
     * is none. `owner` hears linkUp (send everything that is pending), received, frameEnd,
     * rejected, tooBig, refused, returned and stateChanged.
     */
    class Link {
        state = 'connecting';
        #urls;
        #owner;
        #session = new Session();
        #started = false;
        #socket = null;
        #polling = null;
        #retryTimer = null;
        #offlineTimer = null;
        #everUp = false;
        #failures = 0;
        #pollingRetries = 0;
        #refusals = 0;

        constructor(urls, owner) {
            this.#urls = urls;
            this.#owner = owner;
            this.#session.onrenewed = () => owner.sessionRenewed();
        }

        /** By which the pages know the session. */
        get sessionName() {
            return this.#session.name;
        }

        /** What another script needs to go on with the session; null as long as there is none. */
        get handle() {
            const {name, token} = this.#session;
            return token === null ? null : {name, token};
        }

        /** Before the start: go on with another script's session. */
        resume(handle) {
            this.#session.resume(handle);
        }

        /** Begin a session of its own. */
        forget() {
            this.#session.forget();
        }

        start() {
            if (!this.#started) {
                this.#started = true;
                this.#openSocket();
                this.#showState();
            }
        }

        /** The session is kept: a page that comes back finds its mailbox. */
        stop(lastWords) {
            if (!this.#started) {
                return;
            }
            this.#started = false;
            clearTimeout(this.#retryTimer);
            clearTimeout(this.#offlineTimer);
            this.#offlineTimer = null;
            if (this.#socket?.up) {
                lastWords.forEach(message => this.#socket.send(message));
            } else {
                this.#polling?.farewell(lastWords);
            }
            this.#stopPolling();
            this.#socket?.close();
            this.#socket = null;
            this.#failures = this.#pollingRetries = 0;
            this.state = 'connecting';
        }

        /** False when there is no connection: the caller keeps what it wants to keep. */
        send(message) {
            const channel = this.#channel();
            channel?.send(message);
            return Boolean(channel);
        }

        /** Something suggests that the network is back, or may have gone: look at once. */
        nudge() {
            if (!this.#started) {
                return;
            }
            this.#polling?.probe();
            if (this.#socket) {
                this.#socket.probe();
            } else {
                this.#failures = this.#pollingRetries = 0;
                this.#openSocket();
            }
        }

        // Heard from the channels

        socketUp() {
            this.#everUp = true;
            this.#refusals = 0;
            this.#pollingRetries = 0;
            this.#stopPolling();
            this.#showState();
            this.#owner.linkUp();
        }

        socketDown({code, reason, slow, wasUp, stable}) {
            this.#socket = null;
            if (CLOSE_REFUSED.has(code)) {
                this.refused(reason || `closed with code ${code}`);
            } else if (code === CLOSE_TOO_BIG && wasUp) {
                this.#owner.tooBig();
            }
            this.#failures = stable ? 0 : this.#failures + 1;
            if (!this.#everUp || (slow && !wasUp) || this.#failures >= SOCKET_TRIES) {
                this.#startPolling();
            }
            this.#retrySocket();
            this.#showState();
        }

        pollingUp() {
            this.#refusals = 0;
            this.#showState();
            this.#owner.linkUp();
            if (this.#everUp && !this.#socket && this.#pollingRetries > 1) {
                // The server is back after an absence, so the websocket may be.
                this.#pollingRetries = 0;
                this.#retrySocket();
            }
        }

        pollingDown() {
            this.#showState();
        }

        received(message, mark) {
            this.#owner.received(message, mark);
        }

        frameEnd() {
            this.#owner.frameEnd();
        }

        rejected(message, reason) {
            this.#owner.rejected(message, reason);
        }

        refused(reason) {
            this.#refusals += 1;
            if (this.#refusals >= REFUSALS) {
                this.#owner.refused(reason);
            }
        }

        sessionLost(reason) {
            console.info('[dash_dispatch] new session:', reason);
        }

        // Its own

        #channel() {
            if (this.#socket?.up) {
                return this.#socket;
            }
            return this.#polling?.up ? this.#polling : null;
        }

        #openSocket() {
            clearTimeout(this.#retryTimer);
            this.#socket = new Socket(this.#urls.socket, this.#session, this);
        }

        #retrySocket() {
            const waitMs = this.#polling
                ? backoff(SOCKET_BACKOFF_WHILE_POLLING_MS, this.#pollingRetries)
                : backoff(SOCKET_BACKOFF_MS, this.#failures);
            this.#pollingRetries += this.#polling ? 1 : 0;
            clearTimeout(this.#retryTimer);
            this.#retryTimer = setTimeout(() => this.#openSocket(), waitMs);
        }

        #startPolling() {
            this.#polling ??= new Polling(this.#urls, this.#session, this);
        }

        #stopPolling() {
            const unsent = this.#polling?.stop() ?? [];
            this.#polling = null;
            this.#owner.returned(unsent);
        }

        #showState() {
            const channel = this.#channel();
            if (channel) {
                clearTimeout(this.#offlineTimer);
                this.#offlineTimer = null;
                this.#setState(channel === this.#socket ? 'websocket' : 'polling');
            } else if (this.#offlineTimer === null) {
                // A connection that is soon back was never away.
                this.#offlineTimer = setTimeout(() => this.#setState('offline'), OFFLINE_AFTER_MS);
            }
        }

        #setState(state) {
            if (this.state !== state) {
                this.state = state;
                this.#owner.stateChanged(state);
            }
        }
    }

    /** Hands messages to pages. A run of set_props in one frame becomes one message: one render. */
    class Courier {
        #portOf;
        #run = null;

        constructor(portOf) {
            this.#portOf = portOf;
        }

        /** The page keeps the mark, by which it can say later what it has been given. */
        add(message, mark) {
            const page = message.rendererId;
            if (message.type === 'set_props') {
                if (this.#run?.page !== page) {
                    this.flush();
                    this.#run = {page, messages: [], marks: []};
                }
                this.#run.messages.push(message);
                this.#run.marks.push(mark);
            } else {
                this.flush();
                this.post(page, {...message, marks: [mark]});
            }
        }

        flush() {
            const run = this.#run;
            this.#run = null;
            if (run?.messages.length === 1) {
                this.post(run.page, {...run.messages[0], marks: run.marks});
            } else if (run) {
                const payload = run.messages.map(message => message.payload);
                const requestIds = run.messages.map(message => message.requestId);
                this.post(run.page, {
                    type: 'set_props_batch',
                    rendererId: run.page,
                    payload,
                    requestIds,
                    marks: [...new Map(run.marks)] // the last one of each source
                });
            }
        }

        post(page, message) {
            this.#portOf(page)?.postMessage(message);
        }
    }

    /**
     * Leads each page to the desk of its session. All pages of a script share one, but for those that
     * a script that has died leaves behind: they bring theirs, and this one may have begun another.
     */
    class Hall {
        #urls;
        #options;
        #desks = [];
        #aliveLock = null;

        constructor(urls, options) {
            this.#urls = urls;
            this.#options = options;
        }

        /** Serve one end of a message channel. */
        accept(port) {
            port.onmessage = ({data}) => this.#deskFor(data).fromPage(port, data);
            port.start?.();
        }

        /** Pages wait for this lock to learn that this worker has died. */
        holdAliveLock(name) {
            locks()
                ?.request(name, () => {
                    this.#aliveLock = name;
                    this.#desks.forEach(desk => desk.showAlive(name));
                    return new Promise(() => {});
                })
                .catch(() => {}); // Not allowed here: then a death goes unnoticed, as without locks.
        }

        #deskFor({type, rendererId, dd}) {
            const handle = type === 'connect' ? dd?.session : null;
            const found =
                this.#desks.find(desk => handle && desk.sessionName === handle.name) ??
                this.#desks.find(desk => desk.knows(rendererId));
            if (found) {
                return found;
            }
            if (!this.#desks.length || handle) {
                const desk = new Desk(this.#urls, this.#options, this.#aliveLock, handle);
                this.#desks.push(desk);
                return desk;
            }
            return this.#desks[0];
        }
    }

    /** Pages of one session and their pending calls; decides what each message means. */
    class Desk {
        #pages = new Map();
        #calls = new Map();
        #outbox = [];
        #link;
        #courier = new Courier(page => this.#pages.get(page)?.port);
        #shared;
        #aliveLock;
        #silenceTimer = null;
        #opening;
        #held = null;
        #shownAt = null;

        constructor(urls, {shared}, aliveLock, handle) {
            this.#shared = shared;
            this.#aliveLock = aliveLock;
            this.#link = new Link(urls, this);
            this.#opening = handle ? this.#resume(handle) : Promise.resolve();
            self.addEventListener('online', () => this.#link.nudge());
        }

        get sessionName() {
            return this.#link.sessionName;
        }

        knows(rendererId) {
            return this.#pages.has(rendererId);
        }

        showAlive(name) {
            this.#aliveLock = name;
            this.#pages.forEach(page => this.#tellAlive(page));
        }

        // A session that outlives its script

        /** Take up what another script has left, with its pages, unless a living one has it. */
        async #resume(handle) {
            this.#link.resume(handle);
            handle.pages.forEach(([id, lock]) => {
                const page = {id, lock, port: null, seen: new Map(), held: []};
                this.#pages.set(id, page);
                this.#watchLock(page, lock);
            });
            if (!(await this.#own(handle.name))) {
                this.#link.forget();
            }
        }

        /** Of two scripts with one session each would miss what the other is given. */
        #own(name) {
            this.#held = name;
            return new Promise(resolve => {
                const hold = lock => {
                    resolve(lock !== null);
                    return lock && new Promise(() => {});
                };
                const asked = locks()?.request(name, {ifAvailable: true}, hold);
                (asked ?? Promise.reject()).catch(() => resolve(false));
            });
        }

        /** The pages keep what the next script needs to go on. A page without locks never asks. */
        sessionRenewed() {
            if (this.#held !== this.sessionName) {
                this.#own(this.sessionName);
                this.#shownAt = null;
                this.#pages.forEach(page => page.seen.clear()); // those were marks of another
            }
            if (this.#shownAt === null || now() - this.#shownAt > HANDLE_AGE_MS) {
                this.#showSession();
            }
        }

        #showSession() {
            const {handle} = this.#link;
            const locked = [...this.#pages.values()].filter(page => page.lock);
            if (handle && locks()) {
                this.#shownAt = now();
                const pages = locked.map(({id, lock}) => [id, lock]);
                const message = {type: 'dd:session', session: {...handle, pages}};
                locked.forEach(page => page.port?.postMessage(message));
            }
        }

        // From the pages

        fromPage(port, message) {
            const page = this.#pages.get(message.rendererId);
            if (message.type === 'connect') {
                this.#connect(port, message);
            } else if (page?.port === port) {
                page.heardAt = now();
                this.#fromKnownPage(page, message);
            } else if (message.type === 'callback_request' || message.type === 'dd:ping') {
                // Taken for gone (frozen for long, or its farewell was premature): it comes again.
                port.postMessage({type: 'dd:lost', rendererId: message.rendererId});
            }
        }

        #fromKnownPage(page, message) {
            switch (message.type) {
                case 'callback_request':
                    this.#call(page, message);
                    break;
                case 'get_props_response':
                    this.#say({
                        type: 'props',
                        page: page.id,
                        request: message.requestId,
                        payload: message.payload
                    });
                    break;
                case 'tab_visible':
                    this.#link.nudge();
                    break;
                case 'disconnect':
                    this.#disconnect(page);
                    break;
                case 'dd:cancel':
                    this.#cancel(page.id, message.requestId);
                    break;
                case 'dd:ready':
                    this.#release(page);
                    break;
                case 'dd:bye':
                    this.#gone(page);
                    break;
                case 'dd:leave':
                    this.#leave(page);
                    break;
            }
        }

        #connect(port, {rendererId, dd = {}}) {
            const known = this.#pages.get(rendererId);
            const page = known ?? {id: rendererId, lock: null, held: null};
            page.port = port;
            page.pings = Boolean(dd.pings);
            page.heardAt = now();
            page.seen = dd.session?.name === this.sessionName ? new Map(dd.seen) : new Map();
            this.#pages.set(rendererId, page);
            if (dd.lock && dd.lock !== page.lock) {
                page.lock = dd.lock;
                this.#watchLock(page, dd.lock);
            } else if (page.pings) {
                this.#watchSilence();
            }
            // At once, and never `disconnected`: the renderer would give up its pending callbacks.
            port.postMessage({type: 'connected', rendererId});
            port.postMessage({type: 'dd:status', state: this.#link.state});
            this.#tellAlive(page);
            this.#showSession();
            this.#open();
        }

        async #open() {
            await this.#opening;
            if (!this.#isIdle()) {
                this.#link.start();
            }
        }

        /** It has repeated what it waits for: now it can be told what came before it. */
        #release(page) {
            const held = page.held ?? [];
            page.held = null;
            held.forEach(([message, mark]) => this.received(message, mark));
            this.#courier.flush();
        }

        #tellAlive(page) {
            if (this.#aliveLock) {
                page.port?.postMessage({type: 'dd:alive', lock: this.#aliveLock});
            }
        }

        /** The page holds this lock as long as it lives; whoever gets it next knows that it does not. */
        #watchLock(page, name) {
            locks()
                ?.request(name, () => {
                    if (this.#pages.get(page.id) === page && page.lock === name) {
                        this.#gone(page);
                    }
                })
                .catch(error => console.warn('[dash_dispatch] page lock', error));
        }

        #watchSilence() {
            this.#silenceTimer ??= setInterval(() => {
                for (const page of [...this.#pages.values()]) {
                    if (page.pings && now() - page.heardAt > PAGE_SILENCE_MS) {
                        this.#gone(page);
                    }
                }
            }, PAGE_CHECK_MS);
        }

        #call(page, {requestId, payload, dd}) {
            if (this.#calls.has(requestId)) {
                return; // the page has attached again, and repeats what it waits for
            }
            const call = {
                page: page.id,
                request: requestId,
                payload,
                // The name of the session in which it was sent; another script may have done it.
                sentIn: dd?.session ?? null,
                // The clock on the wall: others may stand still while the machine sleeps.
                askedAt: dd?.askedAt ?? Date.now()
            };
            this.#calls.set(requestId, call);
            this.#sendCall(call);
        }

        #sendCall(call) {
            const {page, request, payload} = call;
            const message = {type: 'call', page, request, payload};
            if (call.sentIn !== null) {
                // The server knows it, or has forgotten it: then it is not to be run again.
                message.age_s = Math.max(0, (Date.now() - call.askedAt) / 1000);
                message.lost_session = call.sentIn !== this.sessionName;
            }
            if (this.#link.send(message)) {
                call.sentIn ??= this.sessionName;
            }
        }

        #cancel(page, request) {
            const call = this.#calls.get(request);
            this.#calls.delete(request);
            if (call && call.sentIn !== null) {
                this.#say({type: 'cancel', page, request});
            }
        }

        /** The renderer was unmounted and has given up its callbacks. The page may mount it again. */
        #disconnect(page) {
            this.#callsOf(page).forEach(call => this.#cancel(page.id, call.request));
            page.port = null;
            const watched = page.lock !== null || page.pings;
            if (!this.#shared || !watched) {
                this.#pages.delete(page.id);
            }
            setTimeout(() => this.#closeIfIdle(), LINGER_MS);
        }

        #gone(page) {
            const bye = {type: 'bye', page: page.id};
            this.#leave(page, [bye]);
        }

        /** Forget a page; without last words it goes on over another worker. */
        #leave(page, lastWords = []) {
            this.#pages.delete(page.id);
            this.#callsOf(page).forEach(call => this.#calls.delete(call.request));
            if (this.#isIdle()) {
                this.#link.stop(lastWords);
            } else {
                lastWords.forEach(message => this.#say(message));
            }
        }

        #closeIfIdle() {
            if (this.#isIdle()) {
                this.#link.stop([]);
            }
        }

        #isIdle() {
            return ![...this.#pages.values()].some(page => page.port);
        }

        #callsOf(page) {
            return [...this.#calls.values()].filter(call => call.page === page.id);
        }

        // To the server

        #say(message) {
            if (!this.#link.send(message)) {
                this.#outbox.push(message);
                if (this.#outbox.length > OUTBOX_MOST) {
                    this.#outbox.shift();
                }
            }
        }

        // Heard from the link

        linkUp() {
            this.#outbox.splice(0).forEach(message => this.#say(message));
            this.#calls.forEach(call => this.#sendCall(call));
        }

        returned(messages) {
            messages
                .filter(message => message.type !== 'call') // those are pending anyway
                .forEach(message => this.#outbox.push(message));
        }

        received(message, mark) {
            const page = this.#pages.get(message.rendererId);
            if (page?.held) {
                page.held.push([message, mark]);
                if (page.held.length > HELD_MOST) {
                    page.held.shift();
                }
                return;
            }
            if (page && hasSeen(page, message, mark)) {
                return; // another script had given it to the page
            }
            if (message.type === 'callback_response' && !this.#calls.delete(message.requestId)) {
                return; // answered before, or not wanted any more
            }
            this.#courier.add(message, mark);
        }

        frameEnd() {
            this.#courier.flush();
        }

        rejected(message, reason) {
            console.error('[dash_dispatch] the server rejected a message:', message.type, reason);
            if (message.type === 'call') {
                this.#fail(this.#calls.get(message.request), reason);
            }
        }

        /** The server cannot take a message of this size, and closed. Only the largest can be meant. */
        tooBig() {
            const sizeOf = call => JSON.stringify(call.payload).length;
            const sent = [...this.#calls.values()].filter(call => call.sentIn !== null);
            const [largest] = sent.sort((a, b) => sizeOf(b) - sizeOf(a));
            this.#fail(largest, 'The request of this callback is too large for the server.');
        }

        refused(reason) {
            const text = `The server refused the connection: ${reason}`;
            [...this.#calls.values()].forEach(call => this.#fail(call, text));
        }

        #fail(call, message) {
            if (call && this.#calls.delete(call.request)) {
                this.#courier.post(call.page, {
                    type: 'callback_response',
                    rendererId: call.page,
                    requestId: call.request,
                    payload: {status: 'error', message}
                });
            }
        }

        stateChanged(state) {
            this.#pages.forEach(page => page.port?.postMessage({type: 'dd:status', state}));
        }
    }

    /** Whether a page has brought a mark from another script that is not before this message. */
    function hasSeen({seen}, {direct}, [source, mark]) {
        if (source === MAIL && !isAfter(mark, seen.get(MAIL) ?? null)) {
            return true;
        }
        const [connection, number] = (direct ?? '').split(':');
        return Boolean(direct) && Number(number) <= (seen.get(connection) ?? 0);
    }

    function locks() {
        return self.navigator?.locks; // not on plain http, except localhost
    }

    function uniqueName(prefix) {
        const numbers = crypto.getRandomValues(new Uint32Array(4));
        return `${prefix}-${[...numbers].map(n => n.toString(36)).join('')}`;
    }

    /** The script lies at `<prefix>_dash-dispatch/worker.<hash>.js`; the prefix is the app's. */
    function urlsFrom(script) {
        const socket = new URL('../_dash-ws-callback', script);
        socket.protocol = socket.protocol === 'https:' ? 'wss:' : 'ws:';
        return {
            socket: socket.href,
            send: new URL('send', script).href,
            poll: new URL('poll', script).href
        };
    }

    function serveShared() {
        const hall = new Hall(urlsFrom(self.location.href), {shared: true});
        self.onconnect = event => hall.accept(event.ports[0]);
        hall.holdAliveLock(uniqueName('dash-dispatch-worker'));
    }

    function serveDedicated() {
        const hall = new Hall(urlsFrom(self.location.href), {shared: false});
        hall.accept(self);
        hall.holdAliveLock(uniqueName('dash-dispatch-worker'));
    }

    /** dispatch-page.js left a function on our <script> that takes the way in. */
    function serveInPage(script) {
        const hall = new Hall(urlsFrom(script.src), {shared: false});
        script.dashDispatchReady?.(port => hall.accept(port));
    }

    if (typeof document !== 'undefined') {
        serveInPage(document.currentScript);
    } else if (typeof SharedWorkerGlobalScope !== 'undefined') {
        serveShared();
    } else {
        serveDedicated();
    }
})();
