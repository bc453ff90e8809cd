// A proxy that loses what it carries: TCP as it is between a client and a server far away.

import { once } from 'node:events';
import net from 'node:net';

class Link {
  constructor(client, server) {
    Object.assign(this, { client, server, request: '', streams: false, left: Infinity });
  }

  // Whether it is a stream of what has nothing to do with calls: of GET, or listened to.
  get listens() {
    if (this.request.startsWith('GET ')) return !/^last-event-id:/im.test(this.request);
    return /^mcp-method: *subscriptions\/listen/im.test(this.request);
  }

  up(data) {
    const text = data.toString('latin1');
    if (/^(POST|GET|DELETE) /.test(text)) Object.assign(this, { request: text, streams: false });
    this.server.write(data);
  }

  down(data, proxy) {
    this.streams ||= data.includes('text/event-stream');
    const passes = data.subarray(0, Math.min(data.length, this.left));
    this.left -= passes.length;
    proxy.seen += passes.toString('latin1');
    if (passes.length) this.client.write(passes);
  }

  // In order as far as TCP goes, or not even that.
  close({ reset = false } = {}) {
    for (const socket of [this.client, this.server]) {
      if (reset) socket.resetAndDestroy();
      else socket.destroy();
    }
  }
}

class LosingProxy {
  links = new Set();
  seen = '';

  constructor(serverPort) {
    this.serverPort = serverPort;
    this.listener = net.createServer((client) => this.serve(client));
  }

  get url() {
    return new URL(`http://127.0.0.1:${this.listener.address().port}/mcp`);
  }

  // What carries a stream of events now: calls' streams, or the others.
  streams({ listening = false } = {}) {
    return [...this.links].filter((link) => link.streams && link.listens === listening);
  }

  // From now on lose what comes on the one such stream, but for the next few bytes. The server
  // does not notice: for it, all is written.
  lose(after, { listening = false } = {}) {
    const links = this.streams({ listening });
    if (links.length !== 1) throw new Error(`there are ${links.length} such streams`);
    links[0].left = after;
    return links[0];
  }

  serve(client) {
    const link = new Link(client, net.connect(this.serverPort, '127.0.0.1'));
    this.links.add(link);
    client.on('data', (data) => link.up(data));
    link.server.on('data', (data) => link.down(data, this));
    for (const socket of [client, link.server]) {
      socket.on('error', () => {});
      socket.on('close', () => {
        this.links.delete(link);
        link.close();
      });
    }
  }

  close() {
    this.listener.close();
    for (const link of this.links) link.close();
  }
}

export async function openProxy(serverPort) {
  const proxy = new LosingProxy(serverPort);
  proxy.listener.listen(0, '127.0.0.1');
  await once(proxy.listener, 'listening');
  return proxy;
}
