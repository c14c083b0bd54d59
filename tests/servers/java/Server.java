// A com.sun.net.httpserver as a row of `cargo xtask accuracy`: port 8080, dual-stack, a small answer to everything, `?delay_ms=` holds it back.
//
// `exit` installs no hook: the JVM ends at SIGTERM, whatever is pending; `stop` calls HttpServer.stop(1) in a shutdown hook: no listener any
// more, a second for the exchanges under way, then every connection is closed.

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

public class Server {
    public static void main(String[] arguments) throws IOException {
        String style = arguments[0];
        byte[] body = ("hello from " + System.getenv("POD_NAME") + "\n").getBytes();
        HttpServer server = HttpServer.create(new InetSocketAddress(8080), 0);
        server.createContext("/", exchange -> answer(exchange, body));
        server.setExecutor(Executors.newCachedThreadPool());
        switch (style) {
            case "exit" -> { }
            case "stop" -> Runtime.getRuntime().addShutdownHook(new Thread(() -> server.stop(1)));
            default -> throw new IllegalArgumentException(style + " is neither exit nor stop");
        }
        server.start();
    }

    private static void answer(HttpExchange exchange, byte[] body) throws IOException {
        exchange.getRequestBody().readAllBytes();
        String query = exchange.getRequestURI().getQuery();
        if (query != null && query.startsWith("delay_ms=")) {
            try {
                Thread.sleep(Long.parseLong(query.substring("delay_ms=".length())));
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
        }
        exchange.sendResponseHeaders(200, body.length);
        try (var out = exchange.getResponseBody()) {
            out.write(body);
        }
    }
}
