// match_kl: loss = mean_i KL(P[i] || softmax_j (T[i, j] + b[j])) with T of maxsim.h, its gradients
//
//   q, d, a           as in maxsim.h
//   v       [N, D]    in match_kl_scaled, where q[j, r] = v[j] f[j, r] is formed tile by tile
//   b       [N]       bias of the scored images
//   P       [B, N]    target similarities, finite, not negative
//   exclude [B]       int64, the column that leaves row i's softmax and loss, -1 for none
//   loss    []
//
// That is over = "q": the softmax runs over the images of q. With over = "d" it runs over those of
// d, loss = mean_j KL(P[j] || softmax_i (T[i, j] + b[i])): the regions of an image of q, with its
// own weights, look for their best match in every image of d, and these compete. Then
//
//   b       [B]       bias of the conditioning images
//   P       [N, B]    a row for each image of q, so that N' anchors against B others are [N', B]
//   exclude [N]       the image of d that leaves row j
//
// The softmax runs over one side for each image of the other, so that a block of images of that
// other side, conditioning images i with "q", scored images j with "d", is complete in itself:
// scores, softmax, loss and gradients follow one another block by block, and the matches live for
// one block. With G[i, j] = dloss/dT[i, j] = (Q[i, j] sum_j P[i, j] - P[i, j]) / B the gradients
// are those of maxsim.h, db = sum_i G and dv[j] = sum_r f[j, r] a[j, r] u[j, r]; with "d" i and j
// and B and N change places in G and db.
//
// Gradients come with the loss, those that are asked for and no others; a second derivative is an
// error. A row whose columns are all excluded adds nothing. Sums over images run in a fixed order,
// so that the bits do not depend on the block or on the number of threads. Memory beside inputs and
// results: scratch of each thread and a block of N (R bytes of matches + scores) per conditioning
// image, or of B (...) per scored one.
