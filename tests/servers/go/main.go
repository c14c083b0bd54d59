// A net/http server as a row of `cargo xtask accuracy`: port 8080, dual-stack, a small answer to everything, `?delay_ms=` holds it back.
//
// -on-term default installs no handler: the runtime ends the process at SIGTERM. -on-term shutdown calls Server.Shutdown and waits for it.
// -mptcp listens by MPTCP, as Go 1.24 and later do by themselves; without it the listener is plain TCP on every version.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func answer(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	if delay, err := strconv.Atoi(r.URL.Query().Get("delay_ms")); err == nil {
		time.Sleep(time.Duration(delay) * time.Millisecond)
	}
	fmt.Fprintf(w, "hello from %s\n", os.Getenv("POD_NAME"))
}

func main() {
	onTerm := flag.String("on-term", "default", "default or shutdown")
	mptcp := flag.Bool("mptcp", false, "listen by MPTCP")
	flag.Parse()

	server := &http.Server{Handler: http.HandlerFunc(answer)}
	done := make(chan struct{})
	switch *onTerm {
	case "default":
	case "shutdown":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		go func() {
			<-stop
			if err := server.Shutdown(context.Background()); err != nil {
				log.Print(err)
			}
			close(done)
		}()
	default:
		log.Fatalf("-on-term %q is neither default nor shutdown", *onTerm)
	}

	var config net.ListenConfig
	config.SetMultipathTCP(*mptcp)
	listener, err := config.Listen(context.Background(), "tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-done
}
