# A machine image for EC2 with the agent: packer init . && packer build -var package=../../dist/longshore-agent_1.0_amd64.deb -var files=files .
packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.2.0"
    }
  }
}

variable "package" {
  type        = string
  description = "The agent's deb, as make packages builds it."
}

variable "region" {
  type    = string
  default = "us-west-2"
}

variable "files" {
  type        = string
  description = "A directory, which may be empty: its ecs.config becomes /etc/ecs/ecs.config (else user data writes it), and the archives in its images are preloaded."
}

source "amazon-ebs" "debian" {
  region        = var.region
  instance_type = "t3.small"
  ssh_username  = "admin"
  ami_name      = "longshore-agent-${formatdate("YYYYMMDDhhmmss", timestamp())}"

  source_ami_filter {
    owners      = ["136693071363"] # Debian
    most_recent = true
    filters = {
      name                = "debian-12-amd64-*"
      virtualization-type = "hvm"
    }
  }

  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 2
  }
  imds_support = "v2.0"
}

build {
  sources = ["source.amazon-ebs.debian"]

  provisioner "file" {
    source      = "${path.root}/bake.sh"
    destination = "/tmp/bake.sh"
  }

  provisioner "file" {
    source      = var.package
    destination = "/tmp/longshore-agent.deb"
  }

  provisioner "shell" {
    inline = ["mkdir -p /tmp/longshore-files"]
  }

  provisioner "file" {
    source      = "${var.files}/"
    destination = "/tmp/longshore-files"
  }

  provisioner "shell" {
    execute_command = "sudo env {{ .Vars }} bash '{{ .Path }}'"
    inline = [
      "apt-get update -q && apt-get install -qy --no-install-recommends docker.io",
      "cd /tmp/longshore-files && bash /tmp/bake.sh --package /tmp/longshore-agent.deb $([ ! -f ecs.config ] || echo --config ecs.config) $([ ! -d images ] || echo --images images)",
      "cloud-init clean --logs",
      "rm -rf /tmp/bake.sh /tmp/longshore-agent.deb /tmp/longshore-files",
    ]
  }
}
