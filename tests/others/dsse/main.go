// Checks an attestation with the Go implementations of DSSE and in-toto, and prints what they read.
// usage: dsse PUBLIC_KEY.pem ENVELOPE
package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/encoding/protojson"
)

type verifier struct{ key crypto.PublicKey }

func (v verifier) Verify(_ context.Context, data, sig []byte) error {
	good := false
	switch key := v.key.(type) {
	case ed25519.PublicKey:
		good = ed25519.Verify(key, data, sig)
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(key, digest(key.Params().BitSize, data), sig)
	}
	if !good {
		return errors.New("the signature does not verify")
	}
	return nil
}

func digest(bits int, data []byte) []byte {
	switch {
	case bits <= 256:
		sum := sha256.Sum256(data)
		return sum[:]
	case bits <= 384:
		sum := sha512.Sum384(data)
		return sum[:]
	}
	sum := sha512.Sum512(data)
	return sum[:]
}

func (v verifier) KeyID() (string, error)   { return "", nil }
func (v verifier) Public() crypto.PublicKey { return v.key }

func check(keyPath, envelopePath string) error {
	text, err := os.ReadFile(keyPath)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return errors.New("no PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(envelopePath)
	if err != nil {
		return err
	}
	var envelope dsse.Envelope
	if err := json.Unmarshal(content, &envelope); err != nil {
		return err
	}
	checks, err := dsse.NewEnvelopeVerifier(verifier{key})
	if err != nil {
		return err
	}
	if _, err := checks.Verify(context.Background(), &envelope); err != nil {
		return err
	}
	payload, err := envelope.DecodeB64Payload()
	if err != nil {
		return err
	}
	var statement v1.Statement
	if err := protojson.Unmarshal(payload, &statement); err != nil {
		return err
	}
	if err := statement.Validate(); err != nil {
		return err
	}
	read, err := protojson.Marshal(&statement)
	if err != nil {
		return err
	}
	fmt.Println(string(read))
	return nil
}

func main() {
	if err := check(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
