// Go clients as Kubernetes' own are: client-go's dialer and HTTP/2 settings, and nothing that starts a process for each.
//
//	clients fresh URL CA CERT KEY SECONDS [N] N times a new client every 100 ms; prints [[start, seconds, ok], ...]
//	clients watch URL CA CERT KEY SECONDS N N clients, each with a watch and a request every 200 ms on one connection;
//	                                        prints [[last answer, end of the watch or 0], ...]
//	clients hold URL CA CERT KEY SECONDS N W R K  N clients, each with K watches for W to 2 W seconds that it begins
//	                                        anew whenever they end, and R requests evenly spread over the time, on a
//	                                        connection that it keeps as long as the server does;
//	                                        prints [[watches begun, watches refused, requests answered, failed], ...]
//
// SERVER_NAME in the environment is the name that certificates must carry, for a URL with an address. REQUEST is the
// path of a request, /readyz if it is not set.
//
// Times are seconds since the epoch (start, last answer, end) or durations in seconds. What went wrong, and how often,
// is said on stderr.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	every      = 100 * time.Millisecond // between two fresh clients
	beat       = 200 * time.Millisecond // between two requests beside a watch
	patience   = 60 * time.Second       // no fresh client waits for longer
	dialer     = 30 * time.Second       // client-go: transport.tlsTransportCache, DialContext
	handshake  = 10 * time.Second       // client-go: TLSHandshakeTimeout
	readIdle   = 30 * time.Second       // apimachinery: HTTP2_READ_IDLE_TIMEOUT_SECONDS
	pingAnswer = 15 * time.Second       // apimachinery: HTTP2_PING_TIMEOUT_SECONDS
)

const readyz = "/readyz"

var asked = readyz // the path of every request

func main() {
	if len(os.Args) < 7 {
		fail(fmt.Errorf("usage: clients fresh|watch|hold URL CA CERT KEY SECONDS [N] [W] [R] [K]"))
	}
	if path := os.Getenv("REQUEST"); path != "" {
		asked = path
	}
	config, err := tlsConfig(os.Args[3], os.Args[4], os.Args[5])
	if err != nil {
		fail(err)
	}
	seconds, err := strconv.ParseFloat(os.Args[6], 64)
	if err != nil {
		fail(err)
	}
	length := time.Duration(seconds * float64(time.Second))
	url := strings.TrimRight(os.Args[2], "/")
	count := number(7, 1)
	var result any
	switch os.Args[1] {
	case "watch":
		result = watches(url, config, length, count)
	case "hold":
		result = hold(url, config, length, count, number(8, 300), number(9, 0), number(10, 1))
	default:
		result = fresh(url, config, length, count)
	}
	problems.print()
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		fail(err)
	}
}

// tally counts what went wrong, without the ports and addresses that make each message another one.
type tally struct {
	lock  sync.Mutex
	times map[string]int
}

var problems = tally{times: map[string]int{}}

func (t *tally) add(what string, err error) {
	var operation *net.OpError
	if errors.As(err, &operation) {
		err = fmt.Errorf("%s: %w", operation.Op, operation.Err)
	}
	t.lock.Lock()
	defer t.lock.Unlock()
	t.times[what+": "+err.Error()]++
}

func (t *tally) print() {
	for text, times := range t.times {
		fmt.Fprintf(os.Stderr, "clients %s: %d times: %s\n", strings.Join(os.Args[1:3], " "), times, text)
	}
}

// number is an argument that may be left out.
func number(index, otherwise int) int {
	if len(os.Args) <= index {
		return otherwise
	}
	found, err := strconv.Atoi(os.Args[index])
	if err != nil {
		fail(err)
	}
	return found
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "clients:", err)
	os.Exit(1)
}

func tlsConfig(ca, cert, key string) (*tls.Config, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate", ca)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, ServerName: os.Getenv("SERVER_NAME")}, nil
}

// transport is a new client, which shares no connection with another.
func transport(config *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialer, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: handshake,
		ForceAttemptHTTP2:   true,
		TLSClientConfig:     config.Clone(),
		HTTP2:               &http.HTTP2Config{SendPingTimeout: readIdle, PingTimeout: pingAnswer},
	}
}

func get(ctx context.Context, client *http.Transport, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && (response.StatusCode != http.StatusOK || asked == readyz && string(body) != "ok") {
		err = fmt.Errorf("HTTP %d", response.StatusCode)
	}
	return err
}

func epoch(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

func fresh(url string, config *tls.Config, length time.Duration, count int) [][]any {
	var lock sync.Mutex
	var group sync.WaitGroup
	found := [][]any{}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM) // whoever has seen enough
	defer stop()
	pause := every / time.Duration(count) // the clients take turns
	next := time.Now()                    // a late start delays none of the later ones
	for end := next.Add(length); next.Before(end) && ctx.Err() == nil; next = next.Add(pause) {
		time.Sleep(time.Until(next))
		group.Add(1)
		go func() {
			defer group.Done()
			client := transport(config)
			defer client.CloseIdleConnections()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			start := time.Now()
			err := get(ctx, client, url+asked)
			taken := time.Since(start)
			if err != nil {
				problems.add("no connection", err)
			}
			lock.Lock()
			defer lock.Unlock()
			found = append(found, []any{epoch(start), taken.Seconds(), err == nil})
		}()
	}
	group.Wait()
	return found
}

// hold keeps clients that never end: each has its watches and makes its requests.
func hold(url string, config *tls.Config, length time.Duration, count, seconds, requests, watches int) [][]int64 {
	type counts struct{ begun, refused, answered, failed atomic.Int64 }
	seen := make([]counts, count)
	var group sync.WaitGroup
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	for i := range count {
		client := transport(config)
		for range watches {
			group.Add(1)
			go func() {
				defer group.Done()
				for ctx.Err() == nil {
					if err := watchToItsEnd(ctx, client, url, seconds); err == nil {
						seen[i].begun.Add(1)
					} else if ctx.Err() == nil {
						seen[i].refused.Add(1)
						problems.add("no watch", err)
						time.Sleep(every)
					}
				}
			}()
		}
		group.Add(1)
		go func() {
			defer group.Done()
			if requests == 0 {
				return
			}
			pause := length / time.Duration(requests)
			next := time.Now().Add(pause * time.Duration(i) / time.Duration(count)) // not all in the same moment
			for n := 0; n < requests && ctx.Err() == nil; n++ {
				time.Sleep(time.Until(next))
				next = next.Add(pause)
				if err := get(ctx, client, url+asked); err == nil {
					seen[i].answered.Add(1)
				} else if ctx.Err() == nil {
					seen[i].failed.Add(1)
					problems.add("request failed", err)
				}
			}
		}()
	}
	group.Wait()
	found := make([][]int64, count)
	for i := range seen {
		each := &seen[i]
		found[i] = []int64{each.begun.Load(), each.refused.Load(), each.answered.Load(), each.failed.Load()}
	}
	return found
}

// watchToItsEnd returns an error if the watch could not begin. client-go's reflectors ask for 5 to 10 minutes.
func watchToItsEnd(ctx context.Context, client *http.Transport, url string, seconds int) error {
	path := fmt.Sprintf("/api/v1/namespaces?watch=true&timeoutSeconds=%d", seconds+rand.IntN(seconds))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
	if err != nil {
		return err
	}
	response, err := client.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP %d", response.StatusCode)
	}
	_, _ = io.Copy(io.Discard, response.Body)
	return nil
}

// watches holds each client's connection until its watch ends, the time is up or SIGTERM.
func watches(url string, config *tls.Config, length time.Duration, count int) [][]float64 {
	found := make([][]float64, count)
	var group sync.WaitGroup
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM) // whoever has seen enough
	defer stop()
	for i := range count {
		group.Add(1)
		go func() {
			defer group.Done()
			found[i] = watchOnce(ctx, url, config)
		}()
	}
	group.Wait()
	return found
}

func watchOnce(ctx context.Context, url string, config *tls.Config) []float64 {
	client := transport(config)
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet,
		url+"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases?watch=true&timeoutSeconds=600", nil)
	if err != nil {
		return []float64{0, 0}
	}
	response, err := client.RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusOK {
		return []float64{0, 0}
	}
	defer response.Body.Close()
	ended := make(chan time.Time, 1)
	go func() {
		lines := bufio.NewScanner(response.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
		}
		ended <- time.Now()
	}()
	var lock sync.Mutex
	last := time.Now()
	result := func(end float64) []float64 {
		lock.Lock()
		defer lock.Unlock()
		return []float64{epoch(last), end}
	}
	for {
		select {
		case at := <-ended:
			if ctx.Err() != nil {
				return result(0)
			}
			return result(epoch(at))
		case <-ctx.Done():
			return result(0)
		case <-time.After(beat):
			go func() {
				if get(ctx, client, url+asked) == nil {
					lock.Lock()
					last = time.Now()
					lock.Unlock()
				}
			}()
		}
	}
}
