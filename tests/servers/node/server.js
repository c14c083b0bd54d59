// A node:http server as a row of `cargo xtask accuracy`: port 8080, dual-stack, a small answer to everything, `?delay_ms=` holds it back.
//
// `exit` ends the process at SIGTERM, whatever is pending; `close` calls server.close(), which closes idle connections as well, lets
// every answer from then on close its connection, and exits when the last one is over.
'use strict';

const http = require('node:http');

const style = process.argv[2];
if (style !== 'exit' && style !== 'close') {
  throw new Error(`${style} is neither exit nor close`);
}
const body = `hello from ${process.env.POD_NAME}\n`;
let draining = false;

const server = http.createServer((request, response) => {
  const delay = Number(new URL(request.url, 'http://pod').searchParams.get('delay_ms') || 0);
  const answer = () => {
    response.setHeader('Content-Type', 'text/plain');
    response.setHeader('Content-Length', Buffer.byteLength(body));
    if (draining) {
      response.setHeader('Connection', 'close');
    }
    response.end(body);
  };
  request.resume();
  request.on('end', () => (delay > 0 ? setTimeout(answer, delay) : answer()));
});

process.on('SIGTERM', () => {
  if (style === 'exit') {
    process.exit(0);
  }
  draining = true;
  server.close(() => process.exit(0));
  // Before Node 19, close() left idle connections alone.
  server.closeIdleConnections();
});
server.listen(8080);
