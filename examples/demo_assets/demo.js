// What only the browser knows: how long an answer took, and by what way it came.
{
  const typedAt = new Map(); // "kind/speed" -> [text, when]

  const box = () => {
    const { kind, speed } = dash_clientside.callback_context.inputs_list[0].id;
    return { speed, name: `${kind}/${speed}` };
  };
  const inWords = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);
  const colorOf = (ms) => (ms < 200 ? "teal" : ms < 1000 ? "orange" : "red");

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    demo: {
      typed(text) {
        typedAt.set(box().name, [text, performance.now()]);
        return ["", "…", "dimmed"];
      },

      answered(answer) {
        const { speed, name } = box();
        const [asked, when] = typedAt.get(name) ?? [];
        // Not the latest question's answer: that one is still to come.
        if (answer?.text !== asked) return Array(3).fill(dash_clientside.no_update);
        const ms = performance.now() - when;
        // A slow answer is meant to take two seconds: only the fast ones are judged.
        const color = speed === "fast" ? colorOf(ms) : "dark";
        return [`“${answer.text}” from ${answer.from}`, inWords(ms), color];
      },

      transport() {
        return window.dash_dispatch?.transport?.() ?? "stock Dash";
      },

      lastAnswer() {
        const { value } = dash_clientside.callback_context.triggered[0] ?? {};
        if (!value) return dash_clientside.no_update;
        const text = typeof value === "string" ? value.split(" · ")[0] : value.from;
        return text.replace(" process", "").replace(" of web", " of").toLowerCase();
      },
    },
  });
}
