/* Stands in for the kernel's own file: bcc includes it before anything else. See ebpf/README.md, "Kernel headers". */
#define CONFIG_BPF_SYSCALL 1 /* bcc's helpers.h stops without it; the running kernel has it, or nothing would load */
#define CONFIG_CC_STACKPROTECTOR_OFF 1
