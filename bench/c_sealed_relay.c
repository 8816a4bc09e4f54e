/* SPDX-License-Identifier: Apache-2.0 */
/*
 * c_sealed_relay seal|open LISTEN_HOST LISTEN_PORT TO_HOST TO_PORT KEY IV KEY_ID: a relay in user space as one writes it in C for
 * speed, the row `sealed-c` of `make bench`: recvmmsg, OpenSSL's EVP ChaCha20-Poly1305 with one context for all datagrams, sendmmsg.
 * The same datagrams as chainrelay's (docs/protocol.md §13), one direction, one session; a window of 64 counters.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, ROOM = 2048, HEADER = 12, TAG = 16, OVERHEAD = HEADER + TAG, RECEIVE_BUFFER = 8 << 20 };

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void unhex(const char *text, uint8_t *to, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (sscanf(text + 2 * i, "%2hhx", &to[i]) != 1)
			fail("hexadecimal digits");
}

static struct sockaddr_in endpoint(const char *host, const char *port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };

	if (inet_pton(AF_INET, host, &at.sin_addr) != 1)
		fail(host);
	return at;
}

static void nonce(uint8_t *to, const uint8_t *iv, const uint8_t *header)
{
	memcpy(to, iv, 12);
	for (int i = 4; i < 12; i++)
		to[i] ^= header[i];
}

static size_t seal(EVP_CIPHER_CTX *context, const uint8_t *iv, const uint8_t *id, const uint8_t *text, size_t length, uint8_t *to)
{
	static uint64_t counter;
	uint8_t with[12];
	int done;

	memcpy(to, id, 4);
	for (int i = 0; i < 8; i++)
		to[4 + i] = (uint8_t)(counter >> (56 - 8 * i));
	counter++;
	nonce(with, iv, to);
	if (EVP_EncryptInit_ex(context, NULL, NULL, NULL, with) != 1 || EVP_EncryptUpdate(context, NULL, &done, to, HEADER) != 1 ||
	    EVP_EncryptUpdate(context, to + HEADER, &done, text, (int)length) != 1 || EVP_EncryptFinal_ex(context, to, &done) != 1 ||
	    EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG, to + HEADER + length) != 1)
		return 0;
	return length + OVERHEAD;
}

static int fresh(uint64_t counter)
{
	static uint64_t top, window;

	if (counter >= top) {
		window = counter - top >= 63 ? 1 : window << (counter - top + 1) | 1;
		top = counter + 1;
		return 1;
	}
	uint64_t back = top - 1 - counter;

	if (back > 63 || window >> back & 1)
		return 0;
	window |= 1ULL << back;
	return 1;
}

/* 0: no such datagram. An empty text is never sent here. */
static size_t unseal(EVP_CIPHER_CTX *context, const uint8_t *iv, const uint8_t *id, uint8_t *from, size_t length, uint8_t *to)
{
	uint8_t with[12], rest[TAG];
	uint64_t counter = 0;
	int done;

	if (length <= OVERHEAD || memcmp(from, id, 4))
		return 0;
	for (int i = 0; i < 8; i++)
		counter = counter << 8 | from[4 + i];
	length -= OVERHEAD;
	nonce(with, iv, from);
	if (EVP_DecryptInit_ex(context, NULL, NULL, NULL, with) != 1 ||
	    EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, TAG, from + HEADER + length) != 1 ||
	    EVP_DecryptUpdate(context, NULL, &done, from, HEADER) != 1 ||
	    EVP_DecryptUpdate(context, to, &done, from + HEADER, (int)length) != 1 || EVP_DecryptFinal_ex(context, rest, &done) != 1)
		return 0;
	return fresh(counter) ? length : 0;
}

int main(int count, char **words)
{
	static uint8_t in[BATCH][ROOM], out[BATCH][ROOM];
	static struct mmsghdr received[BATCH], sent[BATCH];
	static struct iovec into[BATCH], from[BATCH];
	uint8_t key[32], iv[12], id[4];

	if (count != 9)
		return 2;
	int sealing = !strcmp(words[1], "seal"), room = RECEIVE_BUFFER;
	struct sockaddr_in here = endpoint(words[2], words[3]), there = endpoint(words[4], words[5]);
	int near = socket(AF_INET, SOCK_DGRAM, 0), far = socket(AF_INET, SOCK_DGRAM, 0);
	EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();

	unhex(words[6], key, sizeof(key));
	unhex(words[7], iv, sizeof(iv));
	unhex(words[8], id, sizeof(id));
	setsockopt(near, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	if (bind(near, (void *)&here, sizeof(here)) || connect(far, (void *)&there, sizeof(there)))
		fail("bind, connect");
	if (!context || EVP_CipherInit_ex(context, EVP_chacha20_poly1305(), NULL, key, iv, sealing) != 1)
		fail("EVP_chacha20_poly1305");
	for (int i = 0; i < BATCH; i++) {
		into[i] = (struct iovec){ in[i], ROOM - OVERHEAD };
		received[i].msg_hdr = (struct msghdr){ .msg_iov = &into[i], .msg_iovlen = 1 };
		sent[i].msg_hdr = (struct msghdr){ .msg_iov = &from[i], .msg_iovlen = 1 };
	}
	for (;;) {
		int got = recvmmsg(near, received, BATCH, MSG_WAITFORONE, NULL), ready = 0;

		for (int i = 0; i < got; i++) {
			size_t length = sealing ? seal(context, iv, id, in[i], received[i].msg_len, out[ready]) :
						  unseal(context, iv, id, in[i], received[i].msg_len, out[ready]);

			if (length) {
				from[ready] = (struct iovec){ out[ready], length };
				ready++;
			}
		}
		for (int done = 0, more; done < ready; done += more)
			if ((more = sendmmsg(far, sent + done, (unsigned)(ready - done), 0)) <= 0)
				more = 1; /* an ICMP error about an earlier one */
	}
}
