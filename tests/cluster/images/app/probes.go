// What probes of every kind ask, besides /readyz.
//
//	GET /status?code=500          that status
//	GET /elsewhere                a redirect to another host
//	GET /flap?bad=2s&good=3s      503 and 200 in turn, each for so long, from the process's start on
//	GET /late?after=3s            503 until so long after the process's start, then 200
//	:8443                         the same with TLS, by a certificate that nobody signed
//	:9090                         gRPC's health service, in the clear; HEALTH is its status, default 1 (SERVING)
//
// "app exit CODE [AFTER]" serves nothing: it says its code and exits with it, after so long.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"os"
	"strconv"
	"time"
)

var started = time.Now()

// query reads a duration of a request.
func query(r *http.Request, key string) time.Duration {
	d, err := time.ParseDuration(r.URL.Query().Get(key))
	if err != nil || d < 0 {
		return 0
	}
	return d
}

func answer(w http.ResponseWriter, good bool) {
	if good {
		fmt.Fprintln(w, "good")
	} else {
		http.Error(w, "bad", http.StatusServiceUnavailable)
	}
}

func handleProbes(mux *http.ServeMux) {
	mux.HandleFunc("/status", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.URL.Query().Get("code"))
		if err != nil || code < 200 || code > 599 {
			code = http.StatusBadRequest
		}
		w.WriteHeader(code)
	})
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://elsewhere.invalid/")
		w.WriteHeader(http.StatusFound)
	})
	mux.HandleFunc("/flap", func(w http.ResponseWriter, r *http.Request) {
		bad, good := query(r, "bad"), query(r, "good")
		answer(w, bad+good == 0 || time.Since(started)%(bad+good) >= bad)
	})
	mux.HandleFunc("/late", func(w http.ResponseWriter, r *http.Request) {
		answer(w, time.Since(started) >= query(r, "after"))
	})
}

// serveProbes listens where probes alone ask.
func serveProbes(mux *http.ServeMux) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "another.name"},
		DNSNames:     []string{"another.name"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	certificate := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	https := &http.Server{Addr: env("TLS_ADDR", ":8443"), Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}}
	go func() { log.Fatal(https.ListenAndServeTLS("", "")) }()

	health := http.NewServeMux()
	health.HandleFunc("/grpc.health.v1.Health/Check", check)
	grpc := &http.Server{Addr: env("GRPC_ADDR", ":9090"), Handler: health, Protocols: new(http.Protocols)}
	grpc.Protocols.SetUnencryptedHTTP2(true)
	go func() { log.Fatal(grpc.ListenAndServe()) }()
}

// check answers a HealthCheckRequest, whatever it asks for.
func check(w http.ResponseWriter, r *http.Request) {
	status, err := strconv.ParseUint(env("HEALTH", "1"), 10, 7)
	if err != nil {
		log.Fatalf("HEALTH: %v", err)
	}
	io.Copy(io.Discard, io.LimitReader(r.Body, 4096))
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	// Not compressed, two bytes: field 1, a number.
	w.Write([]byte{0, 0, 0, 0, 2, 8, byte(status)})
	w.Header().Set("Grpc-Status", "0")
}

// exit is a command for exec probes.
func exit(args []string) {
	code, err := strconv.Atoi(args[0])
	if err != nil {
		log.Fatalf("%q is no exit code", args[0])
	}
	fmt.Println("code", code)
	if len(args) > 1 {
		after, err := time.ParseDuration(args[1])
		if err != nil {
			log.Fatal(err)
		}
		time.Sleep(after)
	}
	os.Exit(code)
}
