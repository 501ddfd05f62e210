/*
 * dispatch-page.js: the page's half of dash_dispatch. Must be loaded before Dash's own scripts.
 *
 *   Relay        stands between Dash's renderer and dispatch-worker.js. The renderer believes that it
 *                talks to a SharedWorker; the script really runs in the best place that there is.
 *   PageLock     lets the worker learn that this page has gone, whatever became of it.
 *   Overflow     lets more than the renderer's 12 callbacks run at a time.
 *   Standing     lets runs of one callback stand beside each other, where its `overlap` says so.
 *   Superseding  tells the server about callbacks whose answer the renderer would throw away.
 *   Running      applies `running=` of offloaded callbacks, to the end of the last run.
 *   Missing      shows an error when an update names a component that is not there.
 *   Libraries    loads component libraries that a callback has imported, before their components.
 *
 * Those from Overflow to Missing look into the renderer's store. Where it is not what they expect they
 * do nothing, and Dash behaves as without them.
 *
 * For page scripts: `window.dash_dispatch.transport()` is 'connecting', 'websocket', 'polling' or
 * 'offline'. On a change `window.dash_dispatch.onstatus(state)` is called, if set, and the event
 * `dash-dispatch:status` with `detail.state` is dispatched on `window`.
 */
(() => {
    'use strict';

    if (window.dash_dispatch) {
        return; // two apps in one page: the first script serves both
    }

    const WIRE_VERSION = 1;
    const WORKER_PATH = '/_dash-dispatch/worker.';

    // What the renderer allows to run at a time, executing and watched together.
    const RENDERER_CAP = 12;

    // Up to here the renderer's work per entry is not worth saving.
    const FEW_PARKED = 24;

    const FIRST_WORD_DEADLINE_MS = 20000;
    const LOCK_DEADLINE_MS = 1000;
    const PING_MS = 20000;
    const REOPEN_MS = {first: 1000, most: 15000};
    // What a worker said before it died may stand in the page's queue behind the news of its death.
    const LAST_WORDS_MS = 100;
    const SOURCES_REMEMBERED = 64;

    // An update's component may come with the answer that follows the update.
    const MISSING_GRACE_MS = 1000;

    const NativeSharedWorker = window.SharedWorker;
    // Where a policy asks for nonces, the script that we may add needs the one of this script.
    const nonce = document.currentScript?.nonce;

    const now = () => performance.now();

    // --- Status ---------------------------------------------------------------------------------

    const api = {
        /** Version of the protocol between script and server. */
        version: WIRE_VERSION,
        /** How callbacks travel now. */
        transport: () => transport,
        /** Called with the new state on every change. */
        onstatus: null
    };
    let transport = 'connecting';

    function showStatus(state) {
        if (state === transport) {
            return;
        }
        transport = state;
        try {
            api.onstatus?.(state);
        } finally {
            window.dispatchEvent(new CustomEvent('dash-dispatch:status', {detail: {state}}));
        }
    }

    // --- The page's lock ------------------------------------------------------------------------

    function uniqueName(prefix) {
        const numbers = crypto.getRandomValues(new Uint32Array(4));
        return `${prefix}-${[...numbers].map(n => n.toString(36)).join('')}`;
    }

    /** An exclusive lock, held as long as the page lives. The browser gives it up for us, even in a crash. */
    class PageLock {
        #name = null;
        #release = null;

        /** The lock's name, or null where there are no locks: then the page has to ping. */
        get() {
            this.#name ??= this.#acquire();
            return this.#name;
        }

        /** Back from the back/forward cache, where a browser may have taken the old one away. */
        renew() {
            const release = this.#release;
            this.#name = this.#acquire();
            this.#name.then(() => release?.());
        }

        #acquire() {
            return new Promise(resolve => {
                setTimeout(() => resolve(null), LOCK_DEADLINE_MS);
                if (!navigator.locks) {
                    resolve(null);
                    return;
                }
                const name = uniqueName('dash-dispatch-page');
                const held = navigator.locks.request(name, () => {
                    resolve(name);
                    return new Promise(release => {
                        this.#release = release;
                    });
                });
                held.catch(() => resolve(null)); // not allowed here, as in a sandboxed frame
            });
        }
    }

    const pageLock = new PageLock();

    // --- Where the worker script runs ------------------------------------------------------------

    // Each opens the script in one place, best first. `hear` takes its messages; `fail` is called
    // when it cannot be loaded. They throw where the browser has no such place.

    function openShared(url, options, hear, fail) {
        const worker = new NativeSharedWorker(url, options);
        worker.onerror = fail;
        worker.port.onmessage = ({data}) => hear(data);
        return {
            post: message => worker.port.postMessage(message),
            close: () => worker.port.close()
        };
    }

    function openDedicated(url, options, hear, fail) {
        const worker = new Worker(url);
        worker.onerror = fail;
        worker.onmessage = ({data}) => hear(data);
        return {
            post: message => worker.postMessage(message),
            close: () => setTimeout(() => worker.terminate(), 1000) // it may have last words to send
        };
    }

    function openInPage(url, options, hear, fail) {
        const {port1, port2} = new MessageChannel();
        const script = document.createElement('script');
        script.dashDispatchReady = accept => accept(port2);
        script.onerror = fail;
        script.onload = () => script.remove();
        if (nonce) {
            script.nonce = nonce;
        }
        script.src = url;
        port1.onmessage = ({data}) => hear(data);
        document.head.append(script);
        return {
            post: message => port1.postMessage(message),
            close: () => {
                script.dashDispatchReady = null;
                port1.close();
            }
        };
    }

    const PLACES = [openShared, openDedicated, openInPage];

    // --- The renderer's end -----------------------------------------------------------------------

    /** Looks like a MessagePort, without the cost of copying every result once more. */
    class RendererPort extends EventTarget {
        #post;
        #close;
        #handler = null;
        #backlog = [];

        constructor(post, close) {
            super();
            this.#post = post;
            this.#close = close;
            this.addEventListener('message', event => this.#handler?.call(this, event));
        }

        get onmessage() {
            return this.#handler;
        }

        set onmessage(handler) {
            this.#handler = handler;
            this.start();
        }

        start() {
            const backlog = this.#backlog;
            this.#backlog = null;
            backlog?.forEach(message => this.deliver(message));
        }

        postMessage(message) {
            this.#post(message);
        }

        close() {
            this.#close();
        }

        deliver(message) {
            if (this.#backlog) {
                this.#backlog.push(message);
            } else {
                this.dispatchEvent(new MessageEvent('message', {data: message}));
            }
        }
    }

    /** What `new SharedWorker` of our script returns. */
    class RelayedWorker extends EventTarget {
        onerror = null;

        constructor(port) {
            super();
            this.port = port;
        }
    }

    const relays = new Set();

    /**
     * One renderer's way to the worker. Keeps what is needed to begin again elsewhere: when a place
     * cannot load the script the next is taken, when a worker dies it is started again, and the
     * requests that have no answer yet are handed over once more.
     */
    class Relay {
        worker;
        #url;
        #options;
        #port;
        #place = -1;
        #opened = 0;
        #link = null;
        #heard = false;
        #greeting = null;
        #answered = false;
        #attached = false;
        #pending = new Map();
        #session = null;
        #seen = new Map();
        #waiting = null;
        #failures = 0;

        constructor(url, options) {
            this.#url = String(url);
            this.#options = options;
            this.#port = new RendererPort(
                message => this.#fromRenderer(message),
                () => this.#close()
            );
            this.worker = new RelayedWorker(this.#port);
            relays.add(this);
            this.#openNext();
        }

        get rendererId() {
            return this.#greeting?.rendererId;
        }

        /** The renderer dropped this callback: tell the server. answerSuperseded() must follow. */
        cancel(requestId) {
            if (this.#pending.delete(requestId)) {
                this.post({type: 'dd:cancel', rendererId: this.rendererId, requestId});
            }
        }

        /** Let the renderer finish with a callback that it dropped: `running` and loading end now. */
        answerSuperseded(requestId) {
            this.#port.deliver({
                type: 'callback_response',
                rendererId: this.rendererId,
                requestId,
                payload: {status: 'prevent_update'}
            });
            running.ended(this, requestId);
        }

        /** Let the renderer apply updates of components, as if the server had sent them. */
        update(updates) {
            const {rendererId} = this;
            if (updates.length) {
                this.#port.deliver({type: 'set_props_batch', rendererId, payload: updates});
            }
        }

        /** What the request of a callback asked for, as long as it has no answer. */
        pendingPayload(requestId) {
            return this.#pending.get(requestId)?.message.payload;
        }

        /** Say who we are, and what we wait for. Safe to repeat. */
        async attach() {
            const opened = this.#opened;
            const lock = await pageLock.get();
            if (!this.#greeting || !this.#link || opened !== this.#opened) {
                return; // closed, or begun again elsewhere
            }
            // The lock is ours before the worker hears of it, or it would get it and take us for gone.
            const dd = {lock, pings: lock === null, session: this.#session, seen: [...this.#seen]};
            this.#link.post({...this.#greeting, dd});
            this.#attached = true;
            this.#pending.forEach(pending => this.#hand(pending));
            this.post({type: 'dd:ready', rendererId: this.rendererId});
        }

        /** Give a request to the worker; the second time with what is known of the first. */
        #hand(pending) {
            const {message, askedAt, wasHanded} = pending;
            const dd = wasHanded ? {askedAt, session: this.#session?.name} : {};
            this.post({...message, dd});
            pending.wasHanded ||= this.#attached;
        }

        /** Messages of ours. Before attaching there is nobody who would know what to do with them. */
        post(message) {
            if (this.#attached) {
                this.#link.post(message);
            }
        }

        // From the renderer

        #fromRenderer(message) {
            if (message.type === 'connect') {
                this.#greeting = message;
                this.#answered = false;
                this.attach();
            } else if (message.type === 'callback_request') {
                this.#request(message);
            } else {
                this.post(message);
            }
            if (message.type === 'disconnect') {
                running.forget(this);
                this.#greeting = null;
                this.#pending.clear();
            }
        }

        #request(message) {
            const pending = {message, askedAt: Date.now(), wasHanded: false};
            this.#pending.set(message.requestId, pending);
            running.began(this, message);
            try {
                this.#hand(pending);
            } catch (error) {
                this.#pending.delete(message.requestId);
                running.ended(this, message.requestId);
                throw error; // cannot be cloned: the renderer shows it as this callback's error
            }
            superseding.requested(this, message);
        }

        #close() {
            this.#opened += 1;
            this.#attached = false;
            this.#link?.close();
            this.#link = null;
            relays.delete(this);
            superseding.forget(this);
        }

        // From the worker

        #hear(message) {
            if (!this.#heard) {
                this.#heard = true;
                this.#failures = 0;
            }
            switch (message.type) {
                case 'dd:status':
                    showStatus(message.state);
                    break;
                case 'dd:lost':
                    this.attach();
                    break;
                case 'dd:alive':
                    this.#watchWorker(message.lock);
                    break;
                case 'dd:session':
                    this.#keep(message.session);
                    break;
                case 'connected':
                    this.#connected(message);
                    break;
                default:
                    this.#mark(message.marks ?? []);
                    this.#take(message);
            }
        }

        /** What the next worker script needs to go on, if this one dies. It stays in this page. */
        #keep(session) {
            if (session.name !== this.#session?.name) {
                this.#seen.clear();
            }
            this.#session = session;
        }

        /** What has been received: of each of the worker's sources the last. */
        #mark(marks) {
            for (const [source, mark] of marks) {
                this.#seen.delete(source);
                this.#seen.set(source, mark);
            }
            if (this.#seen.size > SOURCES_REMEMBERED) {
                this.#seen.delete(this.#seen.keys().next().value);
            }
        }

        /** In order: what comes after components of a new library waits for the library, too. */
        #take(message) {
            if (this.#waiting) {
                this.#waiting.push(message);
                return;
            }
            const dist = message.payload?.data?.dist;
            if (!Array.isArray(dist)) {
                this.#pass(message);
                return;
            }
            this.#waiting = [];
            libraries
                .load(dist)
                .then(() => this.#pass(message), error => this.#pass(withError(message, error)))
                .finally(() => {
                    const waiting = this.#waiting;
                    this.#waiting = null;
                    waiting.forEach(next => this.#take(next));
                });
        }

        #pass(message) {
            if (message.type === 'callback_response') {
                this.#answer(message);
                return;
            }
            this.#port.deliver(message);
            if (message.type === 'set_props') {
                missing.check(this, [message.payload], [message.requestId]);
            } else if (message.type === 'set_props_batch') {
                missing.check(this, message.payload, message.requestIds ?? []);
            }
        }

        #connected(message) {
            // Once is enough: the renderer would log a reconnection that it need not know of.
            if (!this.#answered) {
                this.#answered = true;
                this.#port.deliver(message);
            }
        }

        #answer(message) {
            if (this.#pending.delete(message.requestId)) {
                superseding.answered(message.requestId);
                this.#port.deliver(message);
                running.ended(this, message.requestId);
            }
        }

        /** The worker holds this lock as long as it lives. */
        #watchWorker(name) {
            const opened = this.#opened;
            navigator.locks
                ?.request(name, () => {
                    if (opened === this.#opened) {
                        this.#attached = false;
                        setTimeout(() => this.#replaceWorker(opened), LAST_WORDS_MS);
                    }
                })
                .catch(() => {}); // as without locks
        }

        #replaceWorker(opened) {
            if (opened === this.#opened) {
                this.#place = -1;
                this.#reopenLater();
            }
        }

        // Places

        #openNext() {
            this.#place += 1;
            this.#opened += 1;
            this.#heard = false;
            this.#attached = false;
            const opened = this.#opened;
            const current = () => opened === this.#opened;
            const fail = () => current() && !this.#heard && this.#fall();
            try {
                this.#link = PLACES[this.#place](
                    this.#url,
                    this.#options,
                    message => current() && this.#hear(message),
                    fail
                );
            } catch {
                fail();
                return;
            }
            if (this.#greeting) {
                this.attach();
            }
            setTimeout(fail, FIRST_WORD_DEADLINE_MS);
        }

        #fall() {
            // A worker that was only slow must not run on in the name of this page.
            this.post({type: 'dd:leave', rendererId: this.rendererId});
            this.#link?.close();
            this.#link = null;
            if (this.#place + 1 < PLACES.length) {
                this.#openNext();
            } else {
                // Nothing can be loaded, as while a server is being replaced.
                this.#place = -1;
                this.#reopenLater();
            }
        }

        #reopenLater() {
            this.#opened += 1;
            this.#attached = false;
            this.#link?.close();
            this.#link = null;
            const opened = this.#opened;
            const waitMs = Math.min(REOPEN_MS.most, REOPEN_MS.first * 2 ** this.#failures);
            this.#failures += 1;
            if (this.#failures > 1) {
                showStatus('offline');
            }
            setTimeout(() => opened === this.#opened && this.#openNext(), waitMs);
        }
    }

    // --- Component libraries ----------------------------------------------------------------------

    /** A callback may import a library of components that the page has not loaded yet. */
    class Libraries {
        #loads = new Map();

        /** Load each, in order; those that are there are not loaded again. */
        load(dist) {
            return Promise.all(dist.map(({type, url}) => this.#loadOnce(type, url)));
        }

        #loadOnce(type, url) {
            if (!this.#loads.has(url)) {
                const load = isLoaded(url) ? Promise.resolve() : loadFile(type, url);
                this.#loads.set(url, load);
                load.catch(() => this.#loads.delete(url)); // the next callback tries again
            }
            return this.#loads.get(url);
        }
    }

    function isLoaded(url) {
        const wanted = new URL(url, document.baseURI).href;
        const there = [...document.scripts].some(({src}) => src === wanted);
        return there || [...document.styleSheets].some(({href}) => href === wanted);
    }

    function loadFile(type, url) {
        const element = document.createElement(type === '_css_dist' ? 'link' : 'script');
        if (type === '_css_dist') {
            element.rel = 'stylesheet';
            element.href = url;
        } else {
            element.async = false; // run in order: one may need another
            element.src = url;
        }
        if (nonce) {
            element.nonce = nonce;
        }
        return new Promise((resolve, reject) => {
            element.onload = resolve;
            element.onerror = () => {
                element.remove();
                reject(new Error(`A component library could not be loaded: ${url}`));
            };
            document.head.append(element);
        });
    }

    function withError(message, error) {
        return {...message, payload: {status: 'error', message: error.message}};
    }

    const libraries = new Libraries();

    // --- The renderer's store ---------------------------------------------------------------------

    const stores = new Set();

    function watchStores() {
        // The renderer pushes each of its stores onto this array, or makes it.
        const list = (window.dash_stores = window.dash_stores || []);
        if (!Array.isArray(list)) {
            return;
        }
        list.forEach(watchStore);
        Object.defineProperty(list, 'push', {
            configurable: true,
            writable: true,
            enumerable: false,
            value(...added) {
                added.forEach(watchStore);
                return Array.prototype.push.apply(this, added);
            }
        });
    }

    function watchStore(store) {
        if (stores.has(store) || typeof store?.subscribe !== 'function') {
            return;
        }
        stores.add(store);
        const overflow = new Overflow(store);
        const standing = new Standing(store);
        let seen = null;
        store.subscribe(() => {
            const callbacks = callbacksOf(store);
            if (callbacks && callbacks !== seen) {
                seen = callbacks;
                running.look(callbacks);
                standing.look(callbacks);
                overflow.look(callbacks);
                superseding.look();
            }
        });
    }

    /** The renderer's lists of callbacks, or null if they are not what this script knows. */
    function callbacksOf(store) {
        const callbacks = store.getState()?.callbacks;
        const lists = ['requested', 'prioritized', 'blocked', 'executing', 'watched', 'executed'];
        const known = callbacks && lists.every(name => Array.isArray(callbacks[name]));
        return known ? callbacks : null;
    }

    const action = (name, entries) => ({type: `Callbacks.${name}`, payload: entries});

    /**
     * Lifts the renderer's cap. It starts a callback while fewer than 12 are executing or watched;
     * those in `blocked` are not counted, but otherwise treated as pending. So when the cap is
     * reached, callbacks that wait for our worker are parked there, and go on from there when their
     * answer comes, the way that the renderer itself would have taken them.
     */
    class Overflow {
        #store;
        #enabled = true;
        #due = false;
        #settled = new Map();
        #flushTimer = null;
        #restUntil = 0;

        constructor(store) {
            this.#store = store;
        }

        look({executing, watched}) {
            if (this.#enabled && !this.#due && executing.length + watched.length >= RENDERER_CAP) {
                this.#due = true;
                // Not from within the renderer's own dispatch.
                queueMicrotask(() => {
                    this.#due = false;
                    this.#park();
                });
            }
        }

        #park() {
            const callbacks = callbacksOf(this.#store);
            const entries = callbacks?.watched.filter(entry => this.#isOurs(entry)) ?? [];
            if (!this.#enabled || !entries.length) {
                return;
            }
            this.#dispatch([action('RemoveWatched', entries), action('AddBlocked', entries)]);
            if (!this.#isParked(entries)) {
                this.#giveUp(entries);
                return;
            }
            entries.forEach(({executionPromise}) => {
                executionPromise.then(
                    result => this.#settle(executionPromise, result),
                    error => this.#settle(executionPromise, {error, payload: null})
                );
            });
            this.#offerSlots();
        }

        /** Plain HTTP callbacks keep the cap: browsers allow few connections, and we poll over one. */
        #isOurs({callback, executionPromise}) {
            const everywhere = this.#store.getState().config?.websocket?.enabled;
            return (
                typeof executionPromise?.then === 'function' &&
                !callback.clientside_function &&
                !callback.background &&
                Boolean(everywhere || callback.websocket)
            );
        }

        #isParked(entries) {
            const {blocked, watched} = callbacksOf(this.#store) ?? {blocked: [], watched: []};
            return entries.every(entry => blocked.includes(entry) && !watched.includes(entry));
        }

        #giveUp(entries) {
            this.#enabled = false;
            const {watched} = callbacksOf(this.#store) ?? {watched: entries};
            const lost = entries.filter(entry => !watched.includes(entry));
            if (lost.length) {
                this.#dispatch([action('AddWatched', lost), action('RemoveBlocked', lost)]);
            }
        }

        #settle(promise, result) {
            this.#settled.set(promise, result);
            const {blocked} = callbacksOf(this.#store) ?? {blocked: []};
            if (blocked.length <= FEW_PARKED) {
                this.#flush();
            } else {
                this.#flushTimer ??= setTimeout(() => this.#flush(), this.#restUntil - now());
            }
        }

        /**
         * The renderer takes entries out of a list in a time that grows with the square of its length.
         * So where many are parked, those that settle together go on together, and three quarters of
         * the time stay for everything else.
         */
        #flush() {
            clearTimeout(this.#flushTimer);
            this.#flushTimer = null;
            const startedAt = now();
            this.#goOn();
            this.#restUntil = now() + 3 * (now() - startedAt);
        }

        #goOn() {
            const settled = this.#settled;
            this.#settled = new Map();
            const {blocked} = callbacksOf(this.#store) ?? {blocked: []};
            // Found by its promise: an entry may have been replaced when its outputs were pruned, or
            // be gone because a newer one took its place.
            const entries = blocked.filter(entry => settled.has(entry.executionPromise));
            if (entries.length) {
                const executed = entries.map(entry => ({
                    ...entry,
                    executionResult: settled.get(entry.executionPromise)
                }));
                this.#dispatch([action('RemoveBlocked', entries), action('AddExecuted', executed)]);
            }
        }

        /** The renderer looks for free slots only when something has completed. */
        #offerSlots() {
            setTimeout(() => {
                if (callbacksOf(this.#store)?.prioritized.length) {
                    this.#store.dispatch(action('Completed', 1)); // a counter, used as a signal only
                }
            }, 0);
        }

        #dispatch(actions) {
            this.#store.dispatch({type: 'Callbacks.Aggregate', payload: actions});
        }
    }

    // --- Callbacks that stand beside each other -----------------------------------------------------

    // Values of `overlap` with which the server does not end an earlier run for a newer one.
    const STANDING = new Set(['queue', 'parallel', 'drop']);

    /**
     * The renderer knows runs of one callback by the same identifier, and gives up the older when a
     * newer is asked for. Here each gets an identifier of its own as soon as it is under way, by an
     * addition to its MATCH values, which are read for nothing else from then on. All that follows is
     * the renderer's own way, for each: loading states, answers, errors, and whoever waits for them.
     */
    class Standing {
        #store;
        #enabled = true;
        #due = false;
        #named = new WeakSet();
        #count = 0;

        constructor(store) {
            this.#store = store;
        }

        look({watched}) {
            if (this.#enabled && !this.#due && watched.some(entry => this.#isMeant(entry))) {
                this.#due = true;
                // Not from within the renderer's own dispatch; and before the next run is asked for,
                // which takes the renderer a turn of the event loop.
                queueMicrotask(() => {
                    this.#due = false;
                    this.#giveNames();
                });
            }
        }

        #isMeant({callback, executionPromise}) {
            return (
                STANDING.has(callback?.dispatch?.overlap) &&
                typeof executionPromise?.then === 'function' &&
                !this.#named.has(executionPromise)
            );
        }

        #giveNames() {
            const entries =
                callbacksOf(this.#store)?.watched.filter(entry => this.#isMeant(entry)) ?? [];
            if (!entries.length) {
                return;
            }
            const named = entries.map(entry => ({...entry, anyVals: this.#ownVals(entry)}));
            entries.forEach(({executionPromise}) => this.#named.add(executionPromise));
            this.#store.dispatch({
                type: 'Callbacks.Aggregate',
                payload: [action('RemoveWatched', entries), action('AddWatched', named)]
            });
            const {watched} = callbacksOf(this.#store) ?? {watched: []};
            this.#enabled = named.every(entry => watched.includes(entry));
        }

        #ownVals({anyVals}) {
            this.#count += 1;
            return [anyVals ?? '', `dash-dispatch-${this.#count}`].flat();
        }
    }

    // --- Superseded callbacks ----------------------------------------------------------------------

    /**
     * A request is bound to the store's entry that made it, when exactly one fits. An entry that has
     * left the store unanswered was superseded or its outputs are gone: nobody will see the answer,
     * so the server may stop. Callbacks without outputs are left alone: what they do, they do by
     * set_props.
     */
    class Superseding {
        #bound = new Map();
        #dropped = new Map();
        #due = false;

        requested(relay, {requestId, payload}) {
            try {
                const key = outputsKey(payload?.output, payload?.outputs);
                const [found, ...others] = key ? this.#candidates(key) : [];
                if (found && !others.length) {
                    const {entry, store} = found;
                    const promise = entry.executionPromise;
                    this.#bound.set(requestId, {relay, key, promise, entry, store});
                }
            } catch (error) {
                console.debug('[dash_dispatch] superseding', error); // unknown internals: not bound
            }
        }

        answered(requestId) {
            const bound = this.#bound.get(requestId);
            this.#bound.delete(requestId);
            if (!bound) {
                return;
            }
            if (this.#dropped.size) {
                setTimeout(() => this.#release(bound.key), 0);
            }
            if (this.#isPending(bound.key)) {
                this.#keepLoading(bound);
            }
        }

        /** The renderer ends the loading states of the outputs with the first answer of several. */
        #keepLoading({key, promise, entry, store}) {
            const {paths, loading = {}} = store.getState();
            const payload = entry.getOutputs(paths).flat().flatMap(({path, property}) => {
                const states = loading[JSON.stringify(path)] ?? [];
                return states.filter(state => state.property === property.split('@')[0]);
            });
            promise.then(() => {
                if (payload.length && this.#isPending(key)) {
                    store.dispatch({type: 'LOADING', payload});
                }
            });
        }

        #isPending(key) {
            return [...this.#bound.values()].some(bound => bound.key === key);
        }

        forget(relay) {
            [this.#bound, this.#dropped].forEach(map =>
                map.forEach((item, requestId) => item.relay === relay && map.delete(requestId))
            );
        }

        look() {
            if (this.#bound.size && !this.#due) {
                this.#due = true;
                setTimeout(() => {
                    this.#due = false;
                    this.#dropVanished();
                }, 0);
            }
        }

        #dropVanished() {
            const alive = new Set(liveEntries().map(({entry}) => entry.executionPromise));
            this.#bound.forEach(({relay, key, promise}, requestId) => {
                if (!alive.has(promise)) {
                    this.#bound.delete(requestId);
                    this.#dropped.set(requestId, {relay, key});
                    relay.cancel(requestId);
                }
            });
            new Set([...this.#dropped.values()].map(({key}) => key)).forEach(key =>
                this.#release(key)
            );
        }

        /**
         * The renderer still waits for a dropped request, to end its `running` and loading states.
         * It gets its answer with that of its successor: before, both would look finished.
         */
        #release(key) {
            if (this.#isPending(key)) {
                return;
            }
            this.#dropped.forEach((dropped, requestId) => {
                if (dropped.key === key) {
                    this.#dropped.delete(requestId);
                    dropped.relay.answerSuperseded(requestId);
                }
            });
        }

        #candidates(key) {
            const taken = new Set([...this.#bound.values()].map(({promise}) => promise));
            return liveEntries()
                .filter(({entry}) => !taken.has(entry.executionPromise))
                .filter(({entry, paths}) => entryKey(entry, paths) === key);
        }
    }

    function liveEntries() {
        return [...stores].flatMap(store => {
            const {executing = [], watched = [], blocked = []} = callbacksOf(store) ?? {};
            const {paths} = store.getState();
            return [...executing, ...watched, ...blocked]
                .filter(entry => typeof entry.executionPromise?.then === 'function')
                .map(entry => ({entry, paths, store}));
        });
    }

    const keys = new WeakMap();

    /** Worked out once per run, or many callbacks at a time would cost their number squared. */
    function entryKey({callback, getOutputs, executionPromise}, paths) {
        if (!keys.has(executionPromise)) {
            keys.set(executionPromise, outputsKey(callback.output, getOutputs(paths)));
        }
        return keys.get(executionPromise);
    }

    /** What a callback writes to, wildcards resolved; null for nothing. */
    function outputsKey(output, outputs) {
        const flat = [outputs ?? []].flat(Infinity).filter(Boolean);
        return flat.length
            ? JSON.stringify([output, flat.map(({id, property}) => [stableId(id), property])])
            : null;
    }

    function stableId(id) {
        return typeof id === 'object' ? Object.entries(id).sort() : id;
    }

    const superseding = new Superseding();

    // --- running= ---------------------------------------------------------------------------------

    /**
     * `running=` of offloaded callbacks, in place of the renderer, which takes MATCH values from
     * whatever triggered the callback, and ends it with the first answer, or a superseded run's.
     * Here a run holds the properties that its `running` names, and what no run of the callback
     * holds any more gets its last value, however the run ended.
     */
    class Running {
        #definitions = new Map();
        #adopted = new WeakSet();
        #held = new Map();
        #holders = new Map();

        /** The renderer makes requests of these soon: take `running` out of its hands before. */
        look({requested}) {
            requested.forEach(({callback}) => callback?.dispatch && this.#adopt(callback));
        }

        #adopt(callback) {
            if (this.#adopted.has(callback)) {
                return;
            }
            this.#adopted.add(callback);
            this.#definitions.delete(callback.output); // of the app before a hot reload
            if (callback.running) {
                const definition = {...callback, targets: targetsOf(callback.running)};
                try {
                    callback.running = undefined;
                    this.#definitions.set(callback.output, definition);
                } catch {
                    // frozen: then the renderer goes on to apply it
                }
            }
        }

        began(relay, {requestId, payload}) {
            const definition = this.#definitions.get(payload?.output);
            if (!definition) {
                return;
            }
            const held = resolveTargets(definition, payload);
            const fresh = held.filter(({key}) => this.#hold(key, requestId));
            this.#held.set(requestId, {relay, held});
            // A run that supersedes another begins anew; one beside others must not overwrite what
            // they have shown since.
            const begins = STANDING.has(definition.dispatch.overlap) ? fresh : held;
            relay.update(begins.flatMap(({id, property, on}) => updateOf(id, property, on)));
            const where = `\`running\` or \`progress\` of the callback ${payload.output}`;
            held.forEach(({id, property}) => missing.suspect(id, property, where));
        }

        ended(relay, requestId) {
            const {held = []} = this.#held.get(requestId) ?? {};
            this.#held.delete(requestId);
            const free = held.filter(({key}) => this.#letGo(key, requestId));
            // Whoever has left the page meanwhile needs no last value.
            const there = free.filter(({id}) => isOnPage(id));
            relay.update(there.flatMap(({id, property, off}) => updateOf(id, property, off)));
        }

        /** The renderer was unmounted: it has given up its callbacks. */
        forget(relay) {
            [...this.#held].forEach(([requestId, item]) => {
                if (item.relay === relay) {
                    this.ended(relay, requestId);
                }
            });
        }

        /** True if nobody else does. */
        #hold(key, requestId) {
            const holders = this.#holders.get(key) ?? new Set();
            holders.add(requestId);
            this.#holders.set(key, holders);
            return holders.size === 1;
        }

        /** True if nobody does any more. */
        #letGo(key, requestId) {
            const holders = this.#holders.get(key);
            holders?.delete(requestId);
            if (holders?.size === 0) {
                this.#holders.delete(key);
                return true;
            }
            return false;
        }
    }

    /** What the renderer takes as an update; none for a value that is not given (null is). */
    function updateOf(id, property, value) {
        const componentId = typeof id === 'object' ? JSON.stringify(id) : id;
        return value === undefined ? [] : [{componentId, props: {[property]: value}}];
    }

    /**
     * From `{running: {'id.prop': on}, runningOff: {'id.prop': off}}`. What is only in one of them, as
     * the values of `progress_default`, is left alone at the other end.
     */
    function targetsOf({running: on = {}, runningOff: off = {}}) {
        return Object.keys({...on, ...off}).map(target => {
            const dot = target.lastIndexOf('.');
            const id = parseId(target.slice(0, dot));
            return {id, property: target.slice(dot + 1), on: on[target], off: off[target]};
        });
    }

    /** The components that are meant in this run, wildcards resolved. */
    function resolveTargets({targets, ...callback}, payload) {
        const match = targets.some(({id}) => typeof id === 'object') && matchOf(callback, payload);
        return targets.flatMap(target =>
            resolveId(target.id, match).map(id => ({
                ...target,
                id,
                key: JSON.stringify([callback.output, stableId(id), target.property])
            }))
        );
    }

    /** The values that MATCH stands for in this run: key of the id → value. */
    function matchOf({outputs, inputs, state}, payload) {
        const {output, outputs: given} = payload;
        const severalOutputs = output.startsWith('..') && output.endsWith('..');
        const match = {};
        [
            [outputs, severalOutputs ? given : [given]],
            [inputs, payload.inputs],
            [state, payload.state]
        ].forEach(([patterns = [], found]) =>
            patterns.forEach(({id: pattern}, i) => {
                const [dependency] = [found?.[i]].flat();
                Object.entries(Object(pattern)).forEach(([key, value]) => {
                    if (value?.wild === 'MATCH' && dependency) {
                        match[key] = dependency.id[key];
                    }
                });
            })
        );
        return match;
    }

    /** A wildcard in an id of `running`, as Dash writes it: ["MATCH"], ["ALL"] or ["ALLSMALLER"]. */
    const wildcardOf = value => (Array.isArray(value) ? value[0] : null);

    function resolveId(id, match) {
        if (typeof id !== 'object') {
            return [id];
        }
        const pattern = Object.entries(id);
        if (pattern.every(([, value]) => [null, 'MATCH'].includes(wildcardOf(value)))) {
            const fixed = pattern.map(([key, value]) => [key, wildcardOf(value) ? match[key] : value]);
            return [Object.fromEntries(fixed)];
        }
        const tests = {
            MATCH: (value, key) => value === match[key],
            ALL: () => true,
            ALLSMALLER: (value, key) => value < match[key]
        };
        const fits = found =>
            pattern.every(([key, value]) =>
                wildcardOf(value)
                    ? tests[wildcardOf(value)]?.(found[key], key)
                    : found[key] === value
            );
        return [...stores].flatMap(store => idsLike(id, store).filter(fits));
    }

    const running = new Running();

    // --- Components that are not there ---------------------------------------------------------------

    function parseId(text) {
        if (text.startsWith('{')) {
            try {
                return JSON.parse(text);
            } catch {
                return text;
            }
        }
        return text;
    }

    /** All dict ids on the page with the same keys. */
    function idsLike(id, store) {
        const names = Object.keys(id).sort();
        const found = store.getState().paths?.objs?.[names.join(',')] ?? [];
        return found.map(({values}) => Object.fromEntries(names.map((name, i) => [name, values[i]])));
    }

    function isOnPage(id) {
        const wanted = JSON.stringify(stableId(id));
        return [...stores].some(store => {
            const {paths} = store.getState();
            if (!paths?.strs || !paths.objs) {
                return true; // unknown internals: nothing is known to be missing
            }
            return typeof id === 'object'
                ? idsLike(id, store).some(found => JSON.stringify(stableId(found)) === wanted)
                : id in paths.strs;
        });
    }

    /**
     * The renderer passes over an update for a component that is not on the page, with no more than
     * a line of warning. Here it is shown as it shows other errors in callbacks; once per component.
     */
    class Missing {
        #told = new Set();

        /** Updates that the renderer has just had. */
        check(relay, updates, requestIds) {
            updates.forEach(({componentId, props}, i) => {
                const output = relay.pendingPayload(requestIds[i])?.output;
                const whose = output ? `the callback ${output}` : 'a callback';
                const where = `set_props or \`progress\` of ${whose}`;
                this.suspect(parseId(componentId), Object.keys(props).join(', '), where);
            });
        }

        suspect(id, property, where) {
            if (stores.size && !isOnPage(id)) {
                setTimeout(() => isOnPage(id) || this.#tell(id, property, where), MISSING_GRACE_MS);
            }
        }

        #tell(id, property, where) {
            const name = typeof id === 'object' ? JSON.stringify(id) : id;
            if (this.#told.has(name)) {
                return;
            }
            this.#told.add(name);
            showError(`A callback updates a component that is not on the page: ${name}`, [
                `${name}.${property} is named in`,
                `${where},`,
                'but no component with this id is in the layout. Updates of it are lost.'
            ]);
        }
    }

    /** As the renderer shows an error of a callback: in the dev tools, if on, and on the console. */
    function showError(message, lines) {
        const error = {message, html: lines.join('\n')};
        const store = [...stores].findLast(one => Array.isArray(one.getState().error?.backEnd));
        if (store) {
            store.dispatch({type: 'ON_ERROR', payload: {type: 'backEnd', error}});
        } else {
            console.error(message, error.html);
        }
    }

    const missing = new Missing();

    // --- Installation ------------------------------------------------------------------------------

    function isOurs(url) {
        try {
            return new URL(url, document.baseURI).pathname.includes(WORKER_PATH);
        } catch {
            return false;
        }
    }

    const makeWorker = (url, options) => new Relay(url, options).worker;

    function wrapNative() {
        return new Proxy(NativeSharedWorker, {
            construct: (target, args, newTarget) =>
                isOurs(args[0]) ? makeWorker(...args) : Reflect.construct(target, args, newTarget)
        });
    }

    /** The renderer asks for this name before it uses websocket callbacks at all. */
    function standIn() {
        return function SharedWorker(url, options) {
            if (!isOurs(url)) {
                throw new DOMException('SharedWorker is not supported', 'NotSupportedError');
            }
            return makeWorker(url, options);
        };
    }

    function wrapSharedWorker() {
        Object.defineProperty(window, 'SharedWorker', {
            configurable: true,
            writable: true,
            enumerable: false,
            value: NativeSharedWorker ? wrapNative() : standIn()
        });
    }

    function watchPage() {
        window.addEventListener('pagehide', event => {
            if (!event.persisted) {
                relays.forEach(relay => relay.post({type: 'dd:bye', rendererId: relay.rendererId}));
            }
        });
        window.addEventListener('pageshow', event => {
            if (event.persisted) {
                pageLock.renew();
                relays.forEach(relay => relay.attach());
            }
        });
    }

    /** Without locks the worker knows that we live by hearing from us. */
    async function pingWithoutLock() {
        if ((await pageLock.get()) !== null) {
            return;
        }
        const ping = () =>
            relays.forEach(relay => relay.post({type: 'dd:ping', rendererId: relay.rendererId}));
        setInterval(ping, PING_MS);
        document.addEventListener('visibilitychange', ping);
    }

    window.dash_dispatch = api;
    wrapSharedWorker();
    watchStores();
    watchPage();
    pingWithoutLock();
})();
