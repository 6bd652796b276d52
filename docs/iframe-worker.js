/* Search without a server: browsers start no web worker from the file system, so a
   hidden frame runs the worker's script there. Loaded by the theme's offline search,
   which would fetch such a file from a network. */
window.IFrameWorker = class extends EventTarget {
  constructor(url) {
    super()
    this.frame = document.createElement("iframe")
    this.frame.hidden = true
    document.body.append(this.frame)
    const inside = this.frame.contentWindow
    // What the script posts, the page hears as if a worker had posted it.
    inside.postMessage = (data) =>
      this.dispatchEvent(new MessageEvent("message", { data }))
    inside.importScripts = (...urls) =>
      urls.reduce(
        (before, next) => before.then(() => this.load(next)),
        Promise.resolve()
      )
    this.ready = this.load(new URL(url, document.baseURI).href)
  }

  load(url) {
    return new Promise((resolve, reject) => {
      const script = this.frame.contentDocument.createElement("script")
      script.src = url
      script.onload = resolve
      script.onerror = reject
      this.frame.contentDocument.body.append(script)
    })
  }

  // What the page posts is heard inside, once the script is there.
  postMessage(data) {
    this.ready.then(() =>
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }))
    )
  }

  terminate() {
    this.frame.remove()
  }
}

if (location.protocol === "file:") window.Worker = window.IFrameWorker
