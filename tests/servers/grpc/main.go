// A gRPC server as a row of `cargo xtask accuracy`: grpc-go with its own health service on port 8080, dual-stack. The header `delay-ms` of a call
// holds its answer back.
//
// -on-term default installs no handler: the runtime ends the process at SIGTERM. -on-term graceful calls GracefulStop (GOAWAY, then it waits for the
// calls under way), -on-term stop calls Stop, which closes every connection.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

func hold(ctx context.Context, request any, _ *grpc.UnaryServerInfo, answer grpc.UnaryHandler) (any, error) {
	for _, text := range metadata.ValueFromIncomingContext(ctx, "delay-ms") {
		if delay, err := strconv.Atoi(text); err == nil {
			time.Sleep(time.Duration(delay) * time.Millisecond)
		}
	}
	return answer(ctx, request)
}

func main() {
	onTerm := flag.String("on-term", "default", "default, graceful or stop")
	flag.Parse()

	server := grpc.NewServer(grpc.UnaryInterceptor(hold))
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	end, known := map[string]func(){"default": nil, "graceful": server.GracefulStop, "stop": server.Stop}[*onTerm]
	if !known {
		log.Fatalf("-on-term %q is none of default, graceful and stop", *onTerm)
	}
	done := make(chan struct{})
	if end != nil {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		go func() {
			<-stop
			end()
			close(done)
		}()
	}

	listener, err := net.Listen("tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
	<-done
}
