// A new client by name every 100 ms, dialing as client-go does, until stdin ends; prints one JSON line for each:
// {"at": seconds since the start, "took": seconds, "ok": true}.
// `ok` is any answer with status 200.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

func main() {
	url, authority := os.Args[1], os.Args[2]
	pem, err := os.ReadFile(authority)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	ended := make(chan bool)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	var writing sync.Mutex
	var running sync.WaitGroup
	out := bufio.NewWriter(os.Stdout)
	begin := time.Now()
	ticks := time.NewTicker(100 * time.Millisecond)
	for {
		select {
		case <-ended:
			running.Wait()
			_ = out.Flush()
			return
		case <-ticks.C:
		}
		running.Add(1)
		go func() {
			defer running.Done()
			start := time.Now()
			ok := ask(url, pool)
			line, _ := json.Marshal(map[string]any{
				"at": start.Sub(begin).Seconds(), "took": time.Since(start).Seconds(), "ok": ok})
			writing.Lock()
			defer writing.Unlock()
			_, _ = out.Write(append(line, '\n'))
		}()
	}
}

func ask(url string, pool *x509.CertPool) bool {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	transport := &http.Transport{DialContext: dialer.DialContext, TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 60 * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	_, err = io.ReadAll(answer.Body)
	return err == nil && answer.StatusCode == http.StatusOK
}
