// Browsers refuse workers to pages that are read from a file: there the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.srcdoc = "<body></body>"
      this.inside = new Promise((resolve, reject) => {
        frame.onload = () => {
          const inside = frame.contentWindow
          const load = source =>
            new Promise((loaded, failed) => {
              const script = inside.document.createElement("script")
              Object.assign(script, { src: source, onload: loaded, onerror: failed })
              inside.document.body.append(script)
            })
          // What the worker's script says goes to whoever made the worker.
          inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
          inside.importScripts = async (...sources) => {
            for (const source of sources) await load(source)
          }
          load(url).then(() => resolve(inside), reject)
        }
      })
      document.body.append(frame)
    }

    postMessage(data) {
      this.inside.then(inside => inside.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
}
