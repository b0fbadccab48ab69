package agentapi

// OwnTarget is what stands before the name in X-Amz-Target of an operation that ECS does not have.
const OwnTarget = "LongshoreV1."

// HostKeyOperation asks Longshore's control plane, and no other, for the key that the host is to sign with from now on.
//
// Signed with a join key, for an instance that was registered with it: the answer is a key of the instance's own, which
// alone speaks for it from then on. ClientToken is that of the registration; whoever repeats both gets the same key again,
// so that a lost answer costs nothing. Signed with the instance's own key: the answer is the key that replaces it, if
// somebody rotated it, and empty if it stays. Anything else is an AccessDeniedException.
const HostKeyOperation = "HostKey"

// HostKeyInput is the input of HostKeyOperation.
type HostKeyInput struct {
	ContainerInstance *string // its ARN
	ClientToken       *string // needed with a join key only
}

// HostKeyOutput is its answer. All members are nil when the key that signed stays in use.
type HostKeyOutput struct {
	AccessKeyId     *string
	SecretAccessKey *string
}

// KeyExpiresHeader is a header of answers to a web socket's handshake: when the key that signed it ends, in RFC 3339. It is
// absent while the key has no end. An agent that sees it asks for the next key.
const KeyExpiresHeader = "X-Longshore-Key-Expires"
