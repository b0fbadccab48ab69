package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/protocol/acs"
)

// Importer is a Runtime that can make an image out of a file system, without a registry.
type Importer interface {
	// Import makes a local image with the name ref from a tar archive of its root file system; of config it takes
	// EntryPoint, Command and Env. An image that has the name already loses it.
	Import(ctx context.Context, ref string, root io.Reader, config ImageConfig) (Image, error)
}

const (
	// internalPrefix begins the names of containers that the agent adds to a task. They are never reported.
	internalPrefix = "~internal~ecs~"
	// pauseName is the container whose pid and ipc namespaces a task with pidMode or ipcMode task shares.
	pauseName = internalPrefix + "pause~namespace"
	// pauseRef is the image of pause containers; its tag changes with what is in it.
	pauseRef = "longshore/pause:1"

	modeTask = "task"
)

// CanShareNamespaces reports whether tasks on the engine may have pidMode and ipcMode task.
func CanShareNamespaces(r Runtime) bool {
	_, imports := r.(Importer)
	return imports && pauseProgram(runtime.GOARCH) != nil
}

// internal reports whether a container is the agent's own and not the task definition's.
func (c *Container) internal() bool { return Internal(c.Name) }

// Internal reports whether a container is one that the agent adds to a task.
func Internal(container string) bool { return strings.HasPrefix(container, internalPrefix) }

// addPauses gives a task whose containers share namespaces the containers that hold them. Every other one starts after them
// and stops before them. A task that was rebuilt from labels has them already.
func addPauses(t *Task) error {
	if slices.ContainsFunc(t.Containers, (*Container).internal) { // rebuilt
		return nil
	}
	own := t.Containers
	if len(own) > 0 && (t.payload.PidMode == modeTask || t.payload.IpcMode == modeTask) {
		pause := addPause(t, own, pauseName, ConditionStart)
		if t.payload.IpcMode == modeTask {
			pause.hostConfig.IpcMode = "shareable"
		}
		for _, c := range own {
			pause.hostConfig.ShmSize = max(pause.hostConfig.ShmSize, c.hostConfig.ShmSize) // /dev/shm is the namespace's
		}
	}
	if len(own) > 0 && awsvpc(t.payload) {
		nameAfter(addPause(t, own, networkPause, ConditionNetwork), t.payload.ElasticNetworkInterfaces)
	}
	return nil
}

// addPause adds one, on which the task's own containers depend.
func addPause(t *Task, own []*Container, name string, until Condition) *Container {
	pause := &Container{Name: name, Image: pauseRef, Essential: true, NetworkMode: "none", index: len(t.Containers),
		payload: &acs.Container{Name: name, Image: pauseRef, Essential: true}}
	pause.config.StopSignal = "SIGKILL"                       // it has nothing to put in order
	pause.hostConfig.LogConfig = &acs.LogConfig{Type: "none"} // and nothing to say
	for _, c := range own {
		c.DependsOn = append(c.DependsOn, Dependency{name, until})
	}
	t.Containers = append(t.Containers, pause)
	return pause
}

// joinNamespaces puts the names of the pause container where a container wants the task's namespaces.
func joinNamespaces(t *Task, rec *TaskRecord, host *acs.HostConfig) {
	for _, mode := range []*string{&host.PidMode, &host.IpcMode} {
		if *mode == modeTask {
			*mode = "container:" + nameOf(t, rec, pauseName)
		}
	}
	if strings.HasPrefix(host.IpcMode, "container:") {
		host.ShmSize = 0
	}
}

// onlyInternal reports whether none of the definition's containers is left of a task that has internal ones.
func (v *view) onlyInternal() bool {
	has := false
	for _, c := range v.t.Containers {
		if c.internal() {
			has = true
		} else if v.rec.container(c.Name).Final == nil {
			return false
		}
	}
	return has
}

// pauseImage makes the image of pause containers when it is first needed.
type pauseImage struct{ mu sync.Mutex }

func (p *pauseImage) ensure(ctx context.Context, r Runtime) (Image, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	img, err := r.Image(ctx, pauseRef)
	if err == nil || !errdefs.IsNotFound(err) {
		return img, err
	}
	importer, ok := r.(Importer)
	program := pauseProgram(runtime.GOARCH)
	if !ok || program == nil {
		return img, fmt.Errorf("%w: the agent has no pause image for this container engine on %s", errdefs.ErrNotImplemented, runtime.GOARCH)
	}
	root, err := pauseRoot(program)
	if err != nil {
		return img, err
	}
	failpoint.Hit("engine/import-pause-before")
	img, err = importer.Import(ctx, pauseRef, root, ImageConfig{EntryPoint: []string{"/pause"}})
	failpoint.Hit("engine/import-pause-after")
	return img, err
}

func pauseRoot(program []byte) (io.Reader, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "pause", Mode: 0o555, Size: int64(len(program)), Typeflag: tar.TypeReg}); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	return &b, w.Close()
}

// The program of the pause container is small enough to write down: it ignores SIGCHLD, so that the kernel reaps whatever
// it inherits as process 1 of the namespace (signal(7), "SA_NOCLDWAIT"), and then sleeps for good.
//
//	rt_sigaction(SIGCHLD, &{SIG_IGN}, NULL, 8)
//	for { pause() }                              // arm64 has ppoll(NULL, 0, NULL, NULL, 0) instead
var pauseCode = map[string]struct {
	machine uint16 // of the ELF header
	code    []byte
}{
	"amd64": {62, []byte{
		0xb8, 13, 0, 0, 0, // mov eax, rt_sigaction
		0xbf, 17, 0, 0, 0, // mov edi, SIGCHLD
		0x48, 0x8d, 0x35, 23, 0, 0, 0, // lea rsi, [rip+23]: the action
		0x31, 0xd2, // xor edx, edx
		0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
		0x0f, 0x05, // syscall
		0xb8, 34, 0, 0, 0, // mov eax, pause
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp to mov eax, pause
		0x90, 0x90, 0x90, 0x90, // the action begins at a multiple of 8 bytes
	}},
	"arm64": {183, words(
		0xd28010c8, // mov x8, rt_sigaction
		0xd2800220, // mov x0, SIGCHLD
		0x100001c1, // adr x1, +56: the action
		0xd2800002, // mov x2, 0
		0xd2800103, // mov x3, 8
		0xd4000001, // svc 0
		0xd2800928, // mov x8, ppoll
		0xd2800000, // mov x0, 0
		0xd2800001, // mov x1, 0
		0xd2800002, // mov x2, 0
		0xd2800003, // mov x3, 0
		0xd2800004, // mov x4, 0
		0xd4000001, // svc 0
		0x17fffff9, // b to mov x8, ppoll
		0xd503201f, // nop
		0xd503201f, // nop: the action begins at a multiple of 8 bytes
	)},
}

func words(list ...uint32) []byte {
	var b []byte
	for _, w := range list {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

// pauseProgram is a static ELF executable (elf(5)) of one segment; nil for an architecture it was not written for.
func pauseProgram(goarch string) []byte {
	const base, header, segment = 0x400000, 64, 56
	p, ok := pauseCode[goarch]
	if !ok {
		return nil
	}
	action := make([]byte, 32) // struct sigaction: handler, flags, restorer, mask
	action[0] = 1              // SIG_IGN
	size := uint64(header + segment + len(p.code) + len(action))
	b := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0} // 64 bits, little-endian
	le := binary.LittleEndian
	b = le.AppendUint16(b, 2) // executable
	b = le.AppendUint16(b, p.machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, base+header+segment) // entry
	b = le.AppendUint64(b, header)              // program headers
	b = le.AppendUint64(b, 0)                   // no sections
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{header, segment, 1, 64, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // readable, executable
	for _, v := range []uint64{0, base, base, size, size, 0x10000} {
		b = le.AppendUint64(b, v)
	}
	return append(append(b, p.code...), action...)
}
