package docker

// ReadByContainer makes r read images' files through helper containers, as it must where layers are out of reach.
func (r *Runtime) ReadByContainer() { r.remote = true }

// Translate is translate.
var Translate = translate

// UserNS is userNS.
var UserNS = userNS

// APIVersions is apiVersions.
var APIVersions = apiVersions

// Classify and ClassifyPull are classify and classifyPull.
var (
	Classify     = classify
	ClassifyPull = classifyPull
)

// LabelReader is the label of helper containers.
const LabelReader = labelReader
