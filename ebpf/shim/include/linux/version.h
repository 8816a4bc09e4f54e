/* The lowest kernel that the programs are written for; bcc's helpers.h asks. Nothing in ebpf/ depends on the value. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
