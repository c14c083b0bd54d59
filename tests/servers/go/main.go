// A net/http server as a row of `cargo xtask accuracy`: port 8080, dual-stack, a small answer to everything, `?delay_ms=` holds it back.
//
// -on-term default installs no handler: the runtime ends the process at SIGTERM. -on-term shutdown calls Server.Shutdown and waits for it,
// -on-term close calls Server.Close.
// -tls speaks HTTP/1.1 in TLS, with a certificate of its own making. -h2c speaks HTTP/2 in the clear with those that begin with it.
// -mptcp listens by MPTCP, as Go 1.24 and later do by themselves; without it the listener is plain TCP on every version.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
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

// certificate is good for a day and for nobody in particular.
func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func main() {
	onTerm := flag.String("on-term", "default", "default, shutdown or close")
	useTLS := flag.Bool("tls", false, "speak TLS")
	h2c := flag.Bool("h2c", false, "speak HTTP/2 in the clear")
	mptcp := flag.Bool("mptcp", false, "listen by MPTCP")
	flag.Parse()

	server := &http.Server{Handler: http.HandlerFunc(answer)}
	if *h2c {
		server.Protocols = new(http.Protocols)
		server.Protocols.SetUnencryptedHTTP2(true)
	}
	shutdown := func() error { return server.Shutdown(context.Background()) }
	end, known := map[string]func() error{"default": nil, "shutdown": shutdown, "close": server.Close}[*onTerm]
	if !known {
		log.Fatalf("-on-term %q is none of default, shutdown and close", *onTerm)
	}
	done := make(chan struct{})
	if end != nil {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		go func() {
			<-stop
			if err := end(); err != nil {
				log.Print(err)
			}
			close(done)
		}()
	}

	var config net.ListenConfig
	config.SetMultipathTCP(*mptcp)
	listener, err := config.Listen(context.Background(), "tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	serve := server.Serve
	if *useTLS {
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate()}}
		// An empty map leaves HTTP/2 out.
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
		serve = func(listener net.Listener) error { return server.ServeTLS(listener, "", "") }
	}
	if err := serve(listener); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-done
}
