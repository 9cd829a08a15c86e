module dsse

go 1.19

require (
	github.com/in-toto/attestation v1.0.1
	github.com/secure-systems-lab/go-securesystemslib v0.8.0
	google.golang.org/protobuf v1.31.0
)

require (
	golang.org/x/crypto v0.17.0 // indirect
	golang.org/x/sys v0.15.0 // indirect
)
